"""The text of one part of a corpus on disk, and where each of its documents ends."""

from __future__ import annotations

import codecs
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

PARTS = ("train", "holdout")

DOCUMENT = np.dtype([("end", "<i8"), ("hash", "<u8"), ("number", "<i8"), ("file", "<i4")])
"""Of one document: the byte after its last, the first 8 bytes of its SHA-256, and where it is from:
the place of its file in a list, and the number of its line or row there."""

Table = npt.NDArray[np.void]

_BLOCK = 1 << 20
_ROWS = 4096


@dataclass(frozen=True)
class PartText:
    """The documents of one part."""

    directory: Path
    name: str

    @property
    def path(self) -> Path:
        """Its text in UTF-8, all documents one after the other."""
        return self.directory / f"{self.name}.txt"

    @property
    def table_path(self) -> Path:
        """Its `table` as a file."""
        return self.directory / f"{self.name}.documents"

    @property
    def n_bytes(self) -> int:
        """Of its text."""
        return self.path.stat().st_size

    def table(self) -> Table:
        """`(documents,)` of `DOCUMENT`, mapped."""
        path = self.table_path
        if path.exists():
            return np.memmap(path, DOCUMENT, "r") if path.stat().st_size else np.empty(0, DOCUMENT)
        # Earlier versions, to which all of it was one text.
        return np.array([(self.n_bytes, 0, 0, 0)][: bool(self.n_bytes)], DOCUMENT)

    def documents(self) -> Iterator[Iterator[str]]:
        """The text of each document, in parts; in order, each once."""
        ends = self.table()["end"]
        return self.pieces(0, self.n_bytes, 0, len(ends)) if len(ends) else iter(())

    def pieces(self, start: int, end: int, first: int, last: int) -> Iterator[Iterator[str]]:
        """The text from byte `start` to `end` as `documents` gives it: what ends there of the
        documents `first` to `last`, and the rest."""
        ends = self.table()["end"]
        with self.path.open("rb") as file:
            file.seek(start)
            for row in range(first, last, _ROWS):
                for cut in ends[row : min(row + _ROWS, last)].tolist():
                    yield _decoded(file, cut - start)
                    start = cut
            if start < end or first == last:
                yield _decoded(file, end - start)

    def text(self) -> str:
        """All of it."""
        return self.path.read_bytes().decode("utf-8")

    def sample(self, n_bytes: int) -> Iterator[str]:
        """Its documents; of a part that is longer than `n_bytes`, stretches of about as many.

        Which ones follows from their content, so that the sample of a text to which something was
        added is mostly the same.
        """
        size = self.n_bytes
        if size <= n_bytes:
            yield from map("".join, self.documents())
            return
        for document in self.documents():
            for stretch in document:
                digest = hashlib.sha256(stretch.encode("utf-8")).digest()
                if int.from_bytes(digest[:8], "little") < n_bytes / size * 2**64:
                    yield stretch


def block_sizes(size: int) -> Iterator[int]:
    """How many bytes to read at a time of so many."""
    for start in range(0, size, _BLOCK):
        yield min(_BLOCK, size - start)


def _decoded(file: IO[bytes], size: int) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")()
    for part in block_sizes(size):
        yield decoder.decode(file.read(part))
