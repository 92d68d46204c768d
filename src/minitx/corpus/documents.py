"""Documents: texts that begin and end by themselves, and how they are read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from minitx.config import DataConfig
from minitx.errors import BadInputError


@dataclass(frozen=True, eq=False)
class Document:
    """One text.

    Attributes:
        parts: its text, cut anywhere, so that a long one needs little memory; read once, before
            the next document.
        file: that it is from.
        unit, number: where it stands in there, for example line 3; empty if it is all of the file.
    """

    parts: Iterable[str]
    file: str
    unit: str = ""
    number: int = 0


@dataclass
class Reading:
    """How files are read, and what was found while they were.

    Attributes:
        file_format: name of the reader; None to recognise it.
        separator: what stands between the documents of one plain text; None if it is one.
        text_field: key or column that holds the text; None to look for a usual one.
        skip_bad: pass over records that can't be used.
        skipped: how many were, by file.
        formats: how many files were read as each format.
        n_read, position: bytes of the files that were read, and of the one that is being read.
    """

    file_format: str | None = None
    separator: str | None = None
    text_field: str | None = None
    skip_bad: bool = False
    skipped: dict[str, int] = field(default_factory=dict)
    formats: dict[str, int] = field(default_factory=dict)
    n_read: int = 0
    position: Callable[[], int] = lambda: 0

    @classmethod
    def of(cls, data: DataConfig) -> Reading:
        """As the settings of a run say."""
        return cls(data.format, data.document_separator, data.text_field, data.skip_bad)

    def pass_over(self, file: str, where: str, why: str) -> None:
        """Count a record that can't be used.

        Raises:
            BadInputError: none is to be passed over.
        """
        if not self.skip_bad:
            raise BadInputError(
                f"{file}, {where}: {why}", "Mend it, or leave such records out with --skip-bad"
            )
        self.skipped[file] = self.skipped.get(file, 0) + 1


def separated(parts: Iterable[str], separator: str, file: str) -> Iterator[Document]:
    """The documents of a text in which this stands between them; empty ones are left out."""
    rest, number = "", 0
    for part in parts:
        *ended, rest = (rest + part).split(separator)
        for text in ended:
            number += 1
            if text.strip():
                yield Document([text], file, "document", number)
    if rest.strip():
        yield Document([rest], file, "document", number + 1)
