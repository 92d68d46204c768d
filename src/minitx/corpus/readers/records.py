"""What readers of records share: which of a record's values is its text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from minitx.corpus.documents import Document, Reading, UnknownStructureError
from minitx.tokenizer.conversation import FIELDS

USUAL_FIELDS = ("text", "content", "body")
"""Where texts are looked for if no field is named, the first that there is."""

_SHOWN = 8


def documents_of_records(
    records: Iterable[tuple[int, Any]],
    unit: str,
    file: str,
    reading: Reading,
    field: str | None = None,
) -> Iterator[Document]:
    """Documents of numbered records: mappings, or texts themselves. Empty texts are left out.

    `field` is that of the texts; None for the one that `reading` names, or a usual one.

    Raises:
        BadInputError: the first has no field that is named or usual; or a later one, unless those
            are passed over.
    """
    field = field or reading.text_field
    for number, record in records:
        if isinstance(record, str):
            text: Any = record
        elif not isinstance(record, Mapping):
            reading.pass_over(file, f"{unit} {number:,}", "is neither a text nor an object")
            continue
        else:
            field = field or usual_field(record, file)
            text = value_at(record, field)
        if not isinstance(text, str):
            what = "is no text" if text is not None else "is missing or null"
            reading.pass_over(file, f"{unit} {number:,}", f"{field!r} {what}")
        elif not is_encodable(text):
            reading.pass_over(file, f"{unit} {number:,}", "has half a character (a lone surrogate)")
        elif text.strip():
            yield Document([text], file, unit, number)


def is_encodable(text: str) -> bool:
    """Whether it has no half of a character."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def usual_field(fields: Iterable[str], file: str, is_binary: bool = False) -> str:
    """The usual field among these.

    Raises:
        UnknownStructureError: there is none; says which there are.
    """
    names = list(fields)
    for field in USUAL_FIELDS:
        if field in names:
            return field
    shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
    if chats := set(FIELDS) & set(names):
        raise UnknownStructureError(
            f"{file} has conversations ({chats.pop()}), and is read as other records",
            "Read it with --format chats, for which it must be JSON, one a line or a list",
            is_binary,
        )
    values = fields if isinstance(fields, Mapping) else {}
    texts = {name: len(value) for name, value in values.items() if isinstance(value, str)}
    # The longest text of a record is most likely what it is about.
    named = f": --text-field {max(texts, key=lambda name: texts[name])}" if texts else ""
    raise UnknownStructureError(
        f"{file} has records with {shown or 'no fields'}, and none of {', '.join(USUAL_FIELDS)}",
        f"Name the one that holds the text{named or ' with --text-field'}",
        is_binary,
    )


def value_at(record: Mapping[str, Any], field: str) -> Any:
    """The value of a field, where a.b is b of a; None if it is not there."""
    if field in record:
        return record[field]
    first, _, rest = field.partition(".")
    inner = record.get(first)
    return value_at(inner, rest) if rest and isinstance(inner, Mapping) else None
