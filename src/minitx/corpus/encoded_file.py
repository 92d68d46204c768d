"""A text file as ids, in bounded memory: what a file of any size is scored from.

The file is read block by block. Its text and ids go to temporary files without a name, which are
gone when nobody maps them any more.
"""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from minitx.corpus.encoded import IdArray, PartCounts, ids_type, write_encoded
from minitx.corpus.sources import texts_of
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

    Raises:
        BadInputError: it can't be read, has no text, is not UTF-8, or there is no room for it.
    """
    has_text = False

    def noted() -> Iterator[str]:
        nonlocal has_text
        for text in texts_of(path):
            has_text = has_text or bool(text.strip())
            yield text

    what = f"what {path} holds can't be kept in {tempfile.gettempdir()}"
    fix = "Free some space there, or let TMPDIR name another directory"
    with (
        os_errors_as_bad_input(what, fix),
        tempfile.TemporaryFile() as text_file,
        tempfile.TemporaryFile() as ids_file,
    ):
        counts = write_encoded(noted(), tokenizer, text_file, ids_file)
        if not has_text:
            raise BadInputError(f"{path} has no text in it", "Give a file with some text")
        text_file.flush()
        ids_file.flush()
        ids = np.memmap(ids_file, ids_type(tokenizer.vocab_size), "r")
        return EncodedFile(ids, np.memmap(text_file, np.uint8, "r"), counts)


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
