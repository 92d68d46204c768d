"""Corpus readers: how the files of one format give their documents.

A format is one file in this package, whose class carries `@READERS.register("name")`. From then on,
files of that format are found in directories, trained on and scored.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, ClassVar

from minitx.corpus.documents import Document, Reading
from minitx.errors import BadInputError
from minitx.registry import Registry

BEGINNING = 4096
"""How many of a file's first bytes a reader is shown."""


class CorpusReader(ABC):
    """How the files of one format, with these suffixes (in lower case), give their documents."""

    suffixes: ClassVar[tuple[str, ...]] = ()
    is_special: ClassVar[bool] = False
    """Whether it is asked before readers of a wider format."""

    def recognises(self, name: str, beginning: bytes) -> bool:
        """Whether a file is of this format, by its path and at most `BEGINNING` bytes of it."""
        return Path(name).suffix.lower() in self.suffixes

    @abstractmethod
    def documents(self, file: BinaryIO, name: str, reading: Reading) -> Iterator[Document]:
        """Give the documents of a file, one after the other, so that it needs little memory.

        The file is open at its beginning, and perhaps a pipe, which can't seek. What can't be used
        is told to `reading.pass_over`.

        Raises:
            BadInputError: it is not what this format allows, with the file's name.
        """


READERS: Registry[type[CorpusReader]] = Registry("corpus reader", "minitx.corpus.readers")

_FALLBACK = "text"


def format_of(
    name: str, content: bytes, file_format: str | None = None, has_field: bool = False
) -> str:
    """The format that was asked for; without one, the first whose reader recognises a file by its
    path (or ``standard input``) and content.

    Plain text takes whatever no other does. A special one is no choice where a field is named.

    Raises:
        BadInputError: there is no such format.
    """
    if file_format is not None:
        if file_format not in READERS.names():
            raise BadInputError(
                f"there is no format {file_format!r}",
                f"Choose one of {', '.join(READERS.names())}",
            )
        return file_format
    special = [kind for kind in READERS.names() if READERS.get(kind).is_special]
    others = [kind for kind in READERS.names() if kind not in special]
    for kind in others if has_field else [*special, *others]:
        if kind != _FALLBACK and READERS.get(kind)().recognises(name, content[:BEGINNING]):
            return kind
    return _FALLBACK


def known_suffixes() -> set[str]:
    """Suffixes of the files that a directory is searched for."""
    return {suffix for kind in READERS.names() for suffix in READERS.get(kind).suffixes}
