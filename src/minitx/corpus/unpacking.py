"""Packed files: compressed ones (gzip, bzip2, xz, zstd) and archives (zip, tar) of files."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import importlib
import io
import lzma
import re
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import PurePath
from types import SimpleNamespace
from typing import Any, BinaryIO, cast

from minitx.errors import BadInputError

_Open = Callable[[BinaryIO], Any]


def _open_zstd(file: BinaryIO) -> Any:
    with contextlib.suppress(ImportError):  # From Python 3.14 on.
        return importlib.import_module("compression.zstd").ZstdFile(file)
    return _Zstd(file)


class _Zstd(io.RawIOBase):
    """Frame after frame. The library's own reader tells nobody that one is cut."""

    def __init__(self, file: BinaryIO) -> None:
        import zstandard

        self._file, self._new_frame = file, zstandard.ZstdDecompressor().decompressobj
        self._frame: Any = None
        self._packed, self._ready = b"", memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            # Little at a time: it may stand for ten thousand times as much.
            packed = self._packed or self._file.read(_ZSTD_BLOCK)
            if not packed:
                if self._frame is not None:
                    raise EOFError("Compressed file ended before the end of a frame")
                return 0
            self._frame = self._frame or self._new_frame()
            self._ready, self._packed = memoryview(self._frame.decompress(packed)), b""
            if self._frame.eof:
                self._packed, self._frame = self._frame.unused_data, None
        size = min(len(buffer), len(self._ready))
        buffer[:size], self._ready = self._ready[:size], self._ready[size:]
        return size


_ZSTD_BLOCK = 1 << 13
_COMPRESSED: dict[re.Pattern[bytes], _Open] = {
    re.compile(rb"\x1f\x8b\x08"): lambda file: gzip.GzipFile(fileobj=file),
    re.compile(rb"BZh[1-9]1AY&SY"): bz2.BZ2File,
    re.compile(rb"\xfd7zXZ\0"): lzma.LZMAFile,
    re.compile(rb"\x28\xb5\x2f\xfd"): _open_zstd,
}
"""How to open what begins so."""

COMPRESSED_SUFFIXES = (".gz", ".bz2", ".xz", ".zst")
ARCHIVE_SUFFIXES = (".zip", ".tar", ".tgz", ".tbz2", ".txz")

_LARGEST_NESTING = 4
_OFFICE = ("[Content_Types].xml", "mimetype")
_ZIP = (b"PK\x03\x04", b"PK\x05\x06")  # the latter of an empty one
_TAR, _TAR_AT, _TAR_BLOCK = b"ustar", 257, 512

Wanted = Callable[[str], bool]


def unpacked(
    file: io.BufferedReader, name: str, wanted: Wanted, depth: int = 0
) -> Iterator[tuple[str, io.BufferedReader]]:
    """What a file holds: itself, or the files in it, each with a name; one at a time.

    Args:
        wanted: whether a file of an archive is read, by its name.

    Raises:
        BadInputError: it is packed in a way that is not known, or too often. Whoever reads it needs
            `unpacking_errors_as_bad_input` for the rest.
    """
    beginning = file.peek(_TAR_AT + len(_TAR))
    opened = next((how for mark, how in _COMPRESSED.items() if mark.match(beginning)), None)
    is_zip, is_tar = beginning.startswith(_ZIP), beginning[_TAR_AT:].startswith(_TAR)
    if opened is None and not is_zip and not is_tar:
        yield name, file
        return
    if depth == _LARGEST_NESTING:
        raise BadInputError(f"{name} is packed more than {depth} times", "Unpack it")
    if opened is not None:
        suffix = PurePath(name).suffix
        inner = name.removesuffix(suffix) if suffix.lower() in COMPRESSED_SUFFIXES else name
        yield from unpacked(io.BufferedReader(opened(file)), inner, wanted, depth + 1)
        return
    members = _zip_members(file, name, wanted) if is_zip else _tar_members(file, wanted)
    for member, source in members:
        yield from unpacked(io.BufferedReader(source), f"{name}/{member}", wanted, depth + 1)


def is_packed_text(name: str, wanted: Wanted) -> bool:
    """Whether a file's name says that it is an archive, or a compressed file that is wanted."""
    suffix = PurePath(name).suffix.lower()
    inner = name.removesuffix(PurePath(name).suffix)
    return suffix in ARCHIVE_SUFFIXES or (
        suffix in COMPRESSED_SUFFIXES and (wanted(inner) or inner.lower().endswith(".tar"))
    )


def seekable(file: BinaryIO) -> BinaryIO:
    """The file, or a copy of it for who can't read it from its beginning to its end."""
    with contextlib.suppress(AttributeError):  # A file of a tar archive that streams by.
        if file.seekable():
            return file
    copy = tempfile.TemporaryFile()  # noqa: SIM115
    shutil.copyfileobj(file, copy)
    copy.seek(0)
    return cast(BinaryIO, copy)


def _zip_members(file: BinaryIO, name: str, wanted: Wanted) -> Iterator[tuple[str, Any]]:
    with zipfile.ZipFile(seekable(file)) as archive:
        names = archive.namelist()
        if any(member in names for member in _OFFICE):
            raise BadInputError(
                f"{name} is a document of an office program or an e-book",
                "Export its text to a .txt file",
            )
        for info in archive.infolist():
            if not info.is_dir() and wanted(info.filename):
                if info.flag_bits & 1:
                    raise BadInputError(
                        f"{name} can't be unpacked: {info.filename} is encrypted",
                        "Unpack it with its password, and name the files",
                    )
                with archive.open(info) as source:
                    yield info.filename, source


def _tar_members(file: BinaryIO, wanted: Wanted) -> Iterator[tuple[str, Any]]:
    last = b""

    def read(size: int) -> bytes:
        nonlocal last
        if block := file.read(size):
            last = block[-_TAR_BLOCK:]
        return block

    stream: Any = SimpleNamespace(read=read)
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        for info in archive:
            source = archive.extractfile(info) if info.isfile() and wanted(info.name) else None
            if source is not None:
                yield info.name, source
    if any(last):  # Zeros end an archive; without them it is cut, perhaps between two files.
        raise EOFError("Archive ended before its end mark was reached")


@contextlib.contextmanager
def unpacking_errors_as_bad_input(name: str) -> Iterator[None]:
    """Turn what goes wrong in the block, where a packed file is read, into bad input."""
    try:
        yield
    except ImportError:
        raise BadInputError(
            f"{name} is compressed with zstd, and zstandard is missing",
            'Install it with: pip install "minitx[data]"',
        ) from None
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, zipfile.BadZipFile,
            tarfile.TarError, NotImplementedError) as error:  # fmt: skip
        reason = str(error).splitlines()[0] if str(error) else "it ends too soon"
        raise BadInputError(f"{name} can't be unpacked: {reason}", "Get it anew") from None
    except Exception as error:
        is_theirs = type(error).__module__.partition(".")[0] in ("zstandard", "compression")
        # bz2 raises an OSError without a number for what is not compressed by it.
        is_of_bz2 = isinstance(error, OSError) and error.errno is None
        if isinstance(error, BadInputError) or not (is_theirs or is_of_bz2):
            raise
        raise BadInputError(f"{name} can't be unpacked: {error}", "Get it anew") from None
