"""A text file as ids, in bounded memory: what a file of any size is scored from.

The file is read block by block. Its ids go to a temporary file without a name, which is gone when
nobody maps it any more.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from minitx.corpus.encoded import IdArray, PartCounts, id_bytes, ids_type
from minitx.corpus.readers import BEGINNING, choose_reader
from minitx.corpus.readers.plain_text import BOM, PlainText, decoded
from minitx.corpus.sources import open_text
from minitx.errors import BadInputError
from minitx.files import os_errors_as_bad_input
from minitx.tokenizer import Tokenizer

ByteArray = npt.NDArray[np.uint8]

_BLOCK = 1 << 20


@dataclass(frozen=True, eq=False)
class EncodedFile:
    """A text in UTF-8, `(bytes,)`, and its ids, `(tokens,)`, both mapped."""

    ids: IdArray
    content: ByteArray
    counts: PartCounts


def encode_file(path: Path, tokenizer: Tokenizer) -> EncodedFile:
    """Encode a text file; what the vocabulary lacks becomes the unknown token, and is counted.

    What is not plain text already, or comes from a pipe, goes to a temporary file.

    Raises:
        BadInputError: it can't be read, has no text, is not UTF-8, or there is no room for it.
    """
    content = _content(path)
    counts = Counter[str]()
    has_text = False

    def counted() -> Iterator[str]:
        nonlocal has_text
        for text in decoded(blocks_of(content), str(path)):
            counts["characters"] += len(text)
            has_text = has_text or bool(text.strip())
            yield text

    with _temporary(path) as file:
        ids = tokenizer.encode_stream(counted(), "replace")
        file.writelines(id_bytes(ids, tokenizer, counts))
        if not has_text:
            raise BadInputError(f"{path} has no text in it", "Give a file with some text")
        file.flush()
        mapped = np.memmap(file, ids_type(tokenizer.vocab_size), "r")
    sizes = PartCounts(counts["tokens"], len(content), counts["characters"], counts["unknown"])
    return EncodedFile(mapped, content, sizes)


def _content(path: Path) -> ByteArray:
    """The bytes of a text in UTF-8, mapped."""
    with open_text(path) as source:
        reader = choose_reader(str(path), source.peek(BEGINNING))
        if isinstance(reader, PlainText) and path.is_file():
            return _mapped(source, len(BOM) if source.read(len(BOM)) == BOM else 0)
        with _temporary(path) as copy:
            for text in reader.texts(source, str(path)):
                copy.write(text.encode("utf-8"))
            copy.flush()
            return _mapped(copy, 0)


def _mapped(file: IO[bytes], start: int) -> ByteArray:
    """What a file holds from an offset on."""
    # An empty file can't be mapped.
    if file.seek(0, os.SEEK_END) == start:
        return np.empty(0, np.uint8)
    return np.memmap(file, np.uint8, "r", offset=start)


@contextlib.contextmanager
def _temporary(path: Path) -> Iterator[IO[bytes]]:
    """A file that is gone when nobody has it open or mapped any more."""
    what = f"what {path} holds can't be kept in {tempfile.gettempdir()}"
    fix = "Free some space there, or let TMPDIR name another directory"
    with os_errors_as_bad_input(what, fix), tempfile.TemporaryFile() as file:
        yield file


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
