"""Files written so that a crash leaves the old or the new one, and read with bounds.

The one atomic write, the one careful read and the one streaming digest. Writing goes: write
beside, flush to disk, rename, flush the directory. A rename within one directory is atomic on
POSIX file systems, and the two flushes make its order survive a power cut.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import shlex
import stat
import sys
from collections.abc import Iterable, Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any

from minitx.errors import BadInputError

SMALL_FILE = 1 << 20
"""Bytes that a file of settings or counts may have."""

_BLOCK = 1 << 20


class TooLargeError(ValueError):
    """A file has more bytes than are read of one of its kind."""


@contextlib.contextmanager
def os_errors_as_bad_input(what: str, fix: str) -> Iterator[None]:
    """Tell what the system refuses in one line: `what`, its reason in parentheses, and `fix`.

    Raises:
        BadInputError: instead of the OSError that the block raises.
    """
    try:
        yield
    except OSError as error:
        # NumPy tells no reason where it could not write all.
        reason = error.strerror or "the disk may be full"
        raise BadInputError(f"{what} ({reason})", fix) from None


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a path to write to, and move that file to `path` once it is whole and on disk.

    Raises:
        OSError: nothing is left behind, and an existing file is as it was. The same holds for
            whatever the block raises.
    """
    beside = path.with_name(f".{path.name}.part")
    try:
        yield beside
        sync_file(beside)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    sync_directory(path.parent)


@contextlib.contextmanager
def writing_where_asked(path: Path) -> Iterator[Path]:
    """`replacing` for a file that a person named, which may be a link, or a device or a pipe.

    Raises:
        BadInputError: it can't be written.
    """
    with os_errors_as_bad_input(f"{path} can't be written", "Choose another file"):
        if path.exists() and not path.is_file():
            yield path
        else:
            with replacing(Path(os.path.realpath(path))) as beside:
                yield beside


def write_atomically(path: Path, content: bytes | Iterable[bytes]) -> None:
    """Replace a file by content, or by the blocks of it, as `replacing` does.

    A new file takes the name: one that is linked elsewhere is never written into.
    """
    with replacing(path) as beside, beside.open("wb") as file:
        file.writelines([content] if isinstance(content, bytes) else content)


def sync_file(path: Path) -> None:
    """Wait until a file's content is on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_directory(directory: Path) -> None:
    """Wait until the names in a directory are on disk, where the system can."""
    # Windows can't open a directory; there the rename alone has to do.
    with contextlib.suppress(OSError):
        sync_file(directory)


@contextlib.contextmanager
def open_plain_file(path: Path) -> Iterator[BufferedReader]:
    """Open a plain file for reading; a named pipe, whose writer may never come, is refused.

    Raises:
        OSError: it can't be opened.
        ValueError: it is no plain file.
    """
    with open(path, "rb", opener=_open_without_waiting) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError("it is not a plain file")
        yield file


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def read_bounded(path: Path, largest: int = SMALL_FILE, *, plain: bool = True) -> bytes:
    """Content of a file of at most `largest` bytes; never more than that is read.

    Unless `plain` is false, pipes and devices are refused, as fits the files of a run. What a
    person names may be a pipe.

    Raises:
        OSError: it can't be opened or read.
        TooLargeError: it is larger.
        ValueError: it is no plain file.
    """
    with open_plain_file(path) if plain else path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > largest:
            raise TooLargeError(f"it has {size:,} bytes, more than {largest:,}")
        # A pipe or a device tells no size, and some (/dev/zero) have no end.
        content = file.read(largest + 1)
    if len(content) > largest:
        raise TooLargeError(f"it has more than {largest:,} bytes")
    return content


def read_json(path: Path) -> dict[str, Any]:
    """Parse a small plain file that holds a JSON object.

    Raises:
        OSError: it can't be opened or read.
        ValueError: it is no plain file, is too large, or holds something else.
    """
    try:
        content = json.loads(read_bounded(path))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(content, dict):
        raise ValueError("it is not a JSON object")
    return content


def json_bytes(content: dict[str, Any]) -> bytes:
    """JSON as we write it: one form for one content, in the order given."""
    text = json.dumps(content, ensure_ascii=False, indent=2) + "\n"
    # Of a path that is not UTF-8, what is no character comes back from its escape.
    return text.encode("utf-8", "backslashreplace")


def as_plain(value: Any) -> Any:
    """A nested value with what JSON can't say replaced: tuples by lists, infinities by None."""
    if isinstance(value, dict):
        return {key: as_plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def cache_directory() -> Path | None:
    """Where this user's programs keep what they can find out again: ours, there or not.

    None where the user has no home.
    """
    if given := os.environ.get("XDG_CACHE_HOME", ""):
        # As the XDG base directory specification says, a relative one does not count.
        if Path(given).is_absolute():
            return Path(given) / "minitx"
    elif sys.platform == "win32" and (local := os.environ.get("LOCALAPPDATA")):
        return Path(local) / "minitx" / "Cache"
    try:
        home = Path.home()
    except RuntimeError:
        return None
    return home / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "minitx"


def possible_path(path: Path) -> Path:
    """The same path, there or not.

    Raises:
        BadInputError: no file can have it, or it lies where this user may not look.
    """
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError) as error:
        raise lookup_error(str(path), error) from None
    return path


def lookup_error(name: str, error: Exception) -> BadInputError:
    """What to tell of a name that the system refuses to look up."""
    shown = name if len(name) <= 200 else f"{name[:60]}… of {len(name):,} characters"
    reason = describe_damage(error).lower()
    fix = "Name another file, or restore access"
    return BadInputError(f"{shown} can't be looked up ({reason})", fix)


def shell_word(name: Path | str) -> str:
    """A name as a word of a command line; what a terminal would obey is written by its bytes."""
    word = f"./{name}" if str(name).startswith("-") else str(name)
    if word.isprintable():
        return shlex.quote(word)
    plain = (chr(byte) if chr(byte).isalnum() and byte < 128 else f"\\x{byte:02x}"
             for byte in os.fsencode(word))  # fmt: skip
    return f"$'{''.join(plain)}'"


def describe_damage(error: Exception) -> str:
    """What is wrong with a file, from the error that reading or parsing it raised."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return f"it lacks {error}" if isinstance(error, KeyError) else str(error)


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal; memory does not grow with its size."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
