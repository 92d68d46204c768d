"""A text file as ids, in bounded memory: what a file of any size is scored from.

The file is read block by block. Its ids go to a temporary file without a name, which is gone when
nobody maps it any more.
"""

from __future__ import annotations

import codecs
import contextlib
import mmap
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from minitx.corpus.encoded import IdArray, PartCounts, ids_type
from minitx.corpus.sources import BOM, binary_error, encoding_error, open_text
from minitx.errors import BadInputError
from minitx.tokenizer import Tokenizer

ByteArray = npt.NDArray[np.uint8]

_BLOCK = 1 << 20


@dataclass(frozen=True, eq=False)
class EncodedFile:
    """A text and its ids, both mapped.

    Attributes:
        ids: (tokens,).
        content: (bytes,) the text in UTF-8.
        counts: of it.
    """

    ids: IdArray
    content: ByteArray
    counts: PartCounts


def encode_file(path: Path, tokenizer: Tokenizer) -> EncodedFile:
    """Encode a text file; what the vocabulary lacks becomes the unknown token, and is counted.

    Args:
        path: a file, or a pipe, which is copied to a temporary file.
        tokenizer: that makes the ids.

    Raises:
        BadInputError: it can't be read, has no text, is not UTF-8, or there is no room for its
            ids.
    """
    content = _content(path)
    dtype = ids_type(tokenizer.vocab_size)
    tokens = unknown = characters = 0
    has_text = False

    def counted() -> Iterator[str]:
        nonlocal characters, has_text
        for text in decoded(blocks_of(content), str(path)):
            characters += len(text)
            has_text = has_text or bool(text.strip())
            yield text

    with _temporary(path) as file:
        for ids in tokenizer.encode_stream(counted(), "replace"):
            tokens += len(ids)
            if tokenizer.unknown_id is not None:
                unknown += int(np.count_nonzero(ids == tokenizer.unknown_id))
            file.write(ids.astype(dtype).tobytes())
        if not has_text:
            raise BadInputError(f"{path} has no text in it", "Give a file with some text")
        file.flush()
        mapped = np.memmap(file, dtype, "r")
    return EncodedFile(mapped, content, PartCounts(tokens, len(content), characters, unknown))


def _content(path: Path) -> ByteArray:
    """The bytes of a text, mapped."""
    with open_text(path) as source:
        if path.is_file():
            return _mapped(source)
        with _temporary(path) as copy:
            shutil.copyfileobj(source, copy)
            copy.flush()
            return _mapped(copy)


def _mapped(file: IO[bytes]) -> ByteArray:
    """What a file holds after its byte order mark, if it has one."""
    file.seek(0)
    start = len(BOM) if file.read(len(BOM)) == BOM else 0
    # An empty file can't be mapped.
    if file.seek(0, os.SEEK_END) == start:
        return np.empty(0, np.uint8)
    return np.memmap(file, np.uint8, "r", offset=start)


@contextlib.contextmanager
def _temporary(path: Path) -> Iterator[IO[bytes]]:
    """A file that is gone when nobody has it open or mapped any more."""
    try:
        with tempfile.TemporaryFile() as file:
            yield file
    except OSError as error:
        raise BadInputError(
            f"what {path} holds can't be kept in {tempfile.gettempdir()} ({error.strerror})",
            "Free some space there, or let TMPDIR name another directory",
        ) from None


def decoded(blocks: Iterable[bytes], name: str) -> Iterator[str]:
    """Decode UTF-8 that comes in blocks, cut anywhere.

    Args:
        blocks: of the text, without a byte order mark.
        name: of the text, for errors.

    Raises:
        BadInputError: it is binary, or is not UTF-8 (with the offset of the first bad byte).
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    read = 0
    for block in chain(blocks, [b""]):
        if (zero := block.find(b"\0")) >= 0:
            raise binary_error(name, read + zero)
        # What is left of a character that the last block cut.
        pending = len(decoder.getstate()[0])
        try:
            yield decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            at = read - pending + error.start
            raise encoding_error(name, at, error.object[error.start], error.reason) from None
        read += len(block)


def blocks_of(content: ByteArray) -> Iterator[bytes]:
    """A mapped text, block by block."""
    for start in range(0, len(content), _BLOCK):
        yield content[start : start + _BLOCK].tobytes()
        release(content)


def release(mapped: npt.NDArray[np.generic]) -> None:
    """Let go of what was read of a mapped array; it is read anew when needed.

    Without this, a file that streams by stays in this process's memory until others need it.
    """
    base = mapped
    while isinstance(base, np.ndarray):
        base = base.base  # type: ignore[assignment]
    if isinstance(base, mmap.mmap) and hasattr(base, "madvise"):
        base.madvise(mmap.MADV_DONTNEED)
