"""Documents: texts that begin and end by themselves, and how they are read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain

from minitx.config import DataConfig
from minitx.errors import BadInputError


class UnknownStructureError(BadInputError):
    """A file has records, and which part of them is text is unknown."""

    def __init__(self, what: str, fix: str, is_binary: bool = False) -> None:
        as_text = "" if is_binary else "read all files as plain text with --format text, or "
        super().__init__(what, f"{fix}; or {as_text}leave such files out with --skip-bad")
        self._own_fix = fix + ("" if is_binary else "; or read it as plain text: --format text")

    def of_only_file(self) -> BadInputError:
        """The same of a corpus of one file: without it, nothing would be left."""
        return BadInputError(self.what, self._own_fix)


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
        skip_bad: pass over records that can't be used, and files of unknown structure.
        skipped: how many records were, by file; a file counts as one.
        formats: how many files were read as each format.
        n_files: of the corpus; 0 if that is not known.
        n_read, position: bytes of the files that were read, and of the one that is being read.
    """

    file_format: str | None = None
    separator: str | None = None
    text_field: str | None = None
    skip_bad: bool = False
    skipped: dict[str, int] = field(default_factory=dict)
    formats: dict[str, int] = field(default_factory=dict)
    n_files: int = 0
    n_read: int = 0
    position: Callable[[], int] = lambda: 0

    def found_chats(self, kind: str) -> None:
        """Count a file of this format as one of conversations, which is known this late."""
        self.formats[kind] -= 1
        self.formats = {name: n for name, n in self.formats.items() if n}
        self.formats["chats"] = self.formats.get("chats", 0) + 1

    @classmethod
    def of(cls, data: DataConfig) -> Reading:
        """As the settings of a run say."""
        return cls(data.format, data.document_separator, data.text_field, data.skip_bad)

    def require_fields(self, named: str) -> None:
        """Refuse a field that was named where all that was read is plain text.

        Raises:
            BadInputError: saying what to leave out.
        """
        if self.text_field is not None and self.formats.keys() == {"text"}:
            raise BadInputError(
                f"--text-field {self.text_field} is of no use: {named} is plain text, "
                "without fields",
                "Leave it out; or name the format of its records, for example --format jsonl",
            )

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
    pieces, number, is_over = _cut(parts, separator), 0, False

    def document() -> Iterator[str]:
        nonlocal is_over
        for piece in pieces:
            if piece is None:
                return
            yield piece
        is_over = True

    while not is_over:
        number += 1
        beginning, rest = "", document()
        for piece in rest:
            beginning += piece
            if piece.strip():
                yield Document(chain([beginning], rest), file, "document", number)
                for _ in rest:
                    pass  # What nobody has read.


def _cut(parts: Iterable[str], separator: str) -> Iterator[str | None]:
    """A text in pieces, and None for each separator."""
    held = ""
    for part in parts:
        *ended, held = (held + part).split(separator)
        for text in ended:
            yield text
            yield None
        # Its last characters may be the beginning of a separator.
        sure = len(held) - len(separator) + 1
        if sure > 0:
            yield held[:sure]
            held = held[sure:]
    yield held
