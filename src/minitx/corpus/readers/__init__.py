"""Corpus readers: how the files of one format give their text.

A format is one file in this package, whose class carries `@READERS.register("name")`. From then on,
files of that format are found in directories, trained on and scored.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, ClassVar

from minitx.registry import Registry

BEGINNING = 4096
"""How many of a file's first bytes a reader is shown."""


class CorpusReader(ABC):
    """How the files of one format give their text.

    Attributes:
        suffixes: of its files, in lower case; a directory is searched for them.
    """

    suffixes: ClassVar[tuple[str, ...]] = ()

    def recognises(self, name: str, beginning: bytes) -> bool:
        """Whether a file is of this format.

        Args:
            name: path of the file, or ``standard input``.
            beginning: its first bytes, at most `BEGINNING`.
        """
        return Path(name).suffix.lower() in self.suffixes

    @abstractmethod
    def texts(self, file: BinaryIO, name: str) -> Iterator[str]:
        """Give the text in parts, cut anywhere, so that a large file needs little memory.

        Args:
            file: open at its beginning; perhaps a pipe, which can't seek.
            name: of the file, for errors.

        Raises:
            BadInputError: it is not what this format allows.
        """


READERS: Registry[type[CorpusReader]] = Registry("corpus reader", "minitx.corpus.readers")

_FALLBACK = "text"


def choose_reader(name: str, content: bytes) -> CorpusReader:
    """The first reader that recognises a file; plain text takes whatever no other does.

    Args:
        name: path of the file, or ``standard input``.
        content: of the file, or at least its first bytes.
    """
    for kind in READERS.names():
        reader = READERS.get(kind)()
        if kind != _FALLBACK and reader.recognises(name, content[:BEGINNING]):
            return reader
    return READERS.get(_FALLBACK)()


def known_suffixes() -> set[str]:
    """Suffixes of the files that a directory is searched for."""
    return {suffix for kind in READERS.names() for suffix in READERS.get(kind).suffixes}
