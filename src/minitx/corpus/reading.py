"""A text, from wherever it is kept: files, directories, globs, standard input, or Python itself."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TextIO

from minitx.errors import BadInputError

DEFAULT_NAME = "python-reference"
"""Name of the embedded default corpus: the language reference that comes with Python."""

TEXT_SUFFIXES = tuple(
    ".txt .md .rst .tex .org .adoc .py .pyi .c .h .cpp .hpp .cc .rs .go .java .js .ts .css .html "  # noqa: SIM905
    ".htm .xml .json .jsonl .toml .yaml .yml .ini .cfg .sh .sql .csv .tsv .srt .r .jl .lua .rb "
    ".hs .ml .el .lisp .scm .swift .kt".split()
)
"""Files that a directory is searched for; name a file itself to use any other."""

BOM = b"\xef\xbb\xbf"
"""Byte order mark, which some editors put before UTF-8; no part of the text."""

_SHOWN = 60


@dataclass(frozen=True)
class Corpus:
    """A text and where it came from.

    Attributes:
        text: all of it; files follow each other in the order given, on lines of their own.
        name: short, for naming runs.
        sources: as they were given.
        digest: SHA-256 of the text's UTF-8, in hexadecimal.
        n_bytes: of its UTF-8.
    """

    text: str
    name: str
    sources: tuple[str, ...]
    digest: str
    n_bytes: int


def read_corpus(sources: Sequence[str], stdin: BinaryIO | None = None) -> Corpus:
    """Read a corpus; its characters are kept as they are, line ends included.

    Args:
        sources: files, directories (searched for text files, in order of their paths), globs, or
            ``-`` for standard input; none for the embedded default. A file is read once, however
            often it is named.
        stdin: read for ``-``.

    Raises:
        BadInputError: a source is missing, empty, unreadable, or not UTF-8 text.
    """
    if not sources:
        return _corpus([default_text()], DEFAULT_NAME, ())
    parts: list[str] = []
    # A text that is named twice, by its directory for example, would land on both sides of a split.
    seen: set[Path | None] = set()
    for source in sources:
        for path in [None] if source == "-" else _files(source):
            where = path and path.resolve()
            if where not in seen:
                parts.append(_from_stdin(stdin) if path is None else _from_file(path))
            seen.add(where)
    named = ", ".join("standard input" if source == "-" else source for source in sources)
    if not any(part.strip() for part in parts):
        raise BadInputError(f"{named} has no text in it", "Give a file with some text")
    return _corpus(parts, _name(sources[0]), tuple(sources))


def default_text() -> str:
    """The embedded default corpus: topics of the Python reference, in order of their names.

    Raises:
        BadInputError: this Python was packaged without them.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise BadInputError(
            "this Python comes without the reference that is the default corpus", "Name a text file"
        ) from None
    return "\n".join(topics[name].strip("\n") + "\n" for name in sorted(topics))


def decode_text(content: bytes, name: str) -> str:
    """Decode UTF-8; a byte order mark at the start is dropped.

    Args:
        content: of the file.
        name: of the file, for errors.

    Raises:
        BadInputError: it is not UTF-8 (with the offset of the first bad byte), or is binary.
    """
    start = len(BOM) if content.startswith(BOM) else 0
    at = content.find(b"\0")
    if at >= 0:
        raise binary_error(name, at)
    try:
        return content[start:].decode("utf-8")
    except UnicodeDecodeError as error:
        at = error.start + start
        raise encoding_error(name, at, content[at], error.reason) from None


def piped_text(stdin: TextIO | None, missing: str, fix: str) -> str:
    """The text that is piped in.

    Args:
        stdin: standard input; None if there is none.
        missing: what to say where nothing is piped in.
        fix: and what to do about it.

    Raises:
        BadInputError: nothing is, or it is not UTF-8 text.
    """
    if stdin is None or stdin.isatty():
        raise BadInputError(missing, fix)
    return decode_text(stdin.buffer.read(), "standard input")


def binary_error(name: str, at: int) -> BadInputError:
    """What to say of a text with a zero byte at `at`."""
    return BadInputError(
        f"{name} is binary, not text: byte {at:,} is zero",
        "Give UTF-8 text, for example from iconv -t utf-8",
    )


def encoding_error(name: str, at: int, byte: int, reason: str) -> BadInputError:
    """What to say of a text whose byte at `at` is no UTF-8."""
    return BadInputError(
        f"{name} is not UTF-8: byte {at:,} is 0x{byte:02x} ({reason})",
        "Convert it first, for example with iconv -f latin1 -t utf-8",
    )


def _corpus(parts: Iterable[str], name: str, sources: tuple[str, ...]) -> Corpus:
    pieces: list[str] = []
    for part in parts:
        if pieces and pieces[-1] and not pieces[-1].endswith("\n"):
            pieces.append("\n")
        pieces.append(part)
    text = "".join(pieces)
    content = text.encode("utf-8")
    return Corpus(text, name, sources, hashlib.sha256(content).hexdigest(), len(content))


def _name(source: str) -> str:
    """A name for what a source holds, fit for a directory."""
    if source == "-":
        return "stdin"
    path = Path(source)
    # Of a pattern, the part before it says most.
    while glob.has_magic(path.stem) and not path.exists():
        path = path.parent
    path = path.resolve()
    stem = path.name if path.is_dir() else path.stem
    return re.sub(r"[^\w.-]+", "-", stem).strip("-.")[:60] or "corpus"


def _files(source: str) -> list[Path]:
    path = Path(source)
    if "\0" in source:
        raise BadInputError(f"corpus {source!r} is no path", "Name a text file")
    try:
        is_directory = path.is_dir()
    except OSError as error:
        # The text itself, perhaps, given as an argument.
        shown = source if len(source) <= _SHOWN else f"{source[:_SHOWN]}..."
        raise BadInputError(
            f"corpus {shown!r} can't be read ({error.strerror})", "Name a text file"
        ) from None
    if is_directory:
        found = sorted(
            file
            for file in path.rglob("*")
            if file.suffix.lower() in TEXT_SUFFIXES
            and file.is_file()
            and not any(part.startswith(".") for part in file.relative_to(path).parts)
        )
        if not found:
            raise BadInputError(
                f"directory {source} has no text files (such as .txt, .md, .py)",
                "Name the files themselves",
            )
        return found
    if path.exists() or not glob.has_magic(source):
        return [path]
    matches = sorted(Path(match) for match in glob.glob(source, recursive=True))  # noqa: PTH207
    files = [match for match in matches if match.is_file()]
    if not files:
        raise BadInputError(f"no file matches {source}", "Check the pattern, or name a file")
    return files


def _from_stdin(stdin: BinaryIO | None) -> str:
    if stdin is None:
        raise BadInputError("there is no standard input to read", "Name a file")
    return decode_text(stdin.read(), "standard input")


def _from_file(path: Path) -> str:
    return decode_text(_read(path), str(path))


def _read(path: Path) -> bytes:
    with open_text(path) as file:
        return file.read()


@contextlib.contextmanager
def open_text(path: Path) -> Iterator[BinaryIO]:
    """Open a file of text for reading; what goes wrong meanwhile is told in one line.

    Raises:
        BadInputError: it is missing, a device, or can't be read.
    """
    try:
        if path.is_char_device() or path.is_block_device():
            raise BadInputError(f"corpus {path} is a device", "Name a text file, or - for a pipe")
        with path.open("rb") as file:
            yield file
    except FileNotFoundError:
        raise BadInputError(f"corpus {path} does not exist", "Name a text file") from None
    except OSError as error:
        raise BadInputError(
            f"corpus {path} can't be read ({error.strerror})", "Name a text file you may read"
        ) from None
