"""A file as ids: what is scored, of any size, in little memory."""

from __future__ import annotations

import mmap
import sys
import tempfile
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from minitx.corpus.documents import Reading
from minitx.corpus.encoded import PartCounts
from minitx.corpus.shards import IdArray, ids_type, write_ids
from minitx.corpus.sources import documents_of
from minitx.errors import BadInputError
from minitx.files import os_errors_as_bad_input
from minitx.tokenizer import Tokenizer

_BLOCK = 1 << 20

ByteArray = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class EncodedFile:
    """A text in UTF-8, `(bytes,)`, and its ids, `(tokens,)`, both mapped.

    Of its documents, `ends` are the bytes after each, `numbers` count them in their file.
    """

    ids: IdArray
    content: ByteArray
    counts: PartCounts
    ends: npt.NDArray[np.int64]
    numbers: npt.NDArray[np.int64]

    def name_of(self, file: str, start: int) -> str:
        """What the document at a byte is called, of this file."""
        number = self.numbers[int(np.searchsorted(self.ends, start, side="right"))]
        return f"{file}:{number}" if number else file


def encode_file(
    path: Path, tokenizer: Tokenizer, reading: Reading | None = None, has_ends: bool = True
) -> EncodedFile:
    """Encode a file of any size; what the vocabulary lacks becomes the unknown token.

    After each document of several stands its end, if it `has_ends`. The file is read block by
    block. Its text and ids go to temporary files without a name, which are gone when nobody maps
    them any more.

    Raises:
        BadInputError: it can't be read, has no text, is not UTF-8, or there is no room for it.
    """
    n_bytes = n_characters = 0
    ends, numbers = array("q"), array("q")
    has_text = False

    def noted(parts: Iterable[str]) -> Iterator[str]:
        nonlocal n_bytes, n_characters, has_text
        for text in parts:
            has_text = has_text or bool(text.strip())
            n_characters += len(text)
            n_bytes += text_file.write(text.encode("utf-8"))
            yield text

    def documents() -> Iterator[Iterator[str]]:
        for document in documents_of(path, reading or Reading()):
            yield noted(document.parts)
            ends.append(n_bytes)
            numbers.append(document.number)

    what = f"what {path} holds can't be kept in {tempfile.gettempdir()}"
    fix = "Free some space there, or let TMPDIR name another directory"
    with (
        os_errors_as_bad_input(what, fix),
        tempfile.TemporaryFile() as text_file,
        tempfile.TemporaryFile() as ids_file,
    ):
        n_ends = sys.maxsize if has_ends else 0
        n_tokens, n_unknown = write_ids(ids_file, tokenizer, documents(), n_ends)
        if not has_text:
            raise BadInputError(f"{path} has no text in it", "Give a file with some text")
        text_file.flush()
        ids_file.flush()
        mapped: IdArray = np.memmap(ids_file, ids_type(tokenizer.vocab_size), "r")
        if len(ends) == 1 and has_ends and tokenizer.end_id is not None:
            mapped, n_tokens = mapped[:-1], n_tokens - 1  # As in a corpus of one document.
        counts = PartCounts(n_tokens, n_bytes, n_characters, n_unknown)
        content = np.memmap(text_file, np.uint8, "r")
        return EncodedFile(mapped, content, counts, np.array(ends), np.array(numbers))


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
