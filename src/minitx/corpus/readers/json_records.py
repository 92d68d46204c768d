"""JSON: a record a line, or a list of records."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any, BinaryIO

from minitx.corpus.documents import Document, Reading, UnknownStructureError
from minitx.corpus.readers import READERS, CorpusReader
from minitx.corpus.readers.plain_text import BOM, PlainText, lines_of
from minitx.corpus.readers.records import documents_of_records
from minitx.errors import BadInputError

LONGEST_RECORD = 64 << 20
"""Characters: a longer one is no note but another file in a line."""

_decoder = json.JSONDecoder()
_space: Any = re.compile(r"\s*")
_OBJECT = re.compile(rb'\s*\{\s*"(?:[^"\\]|\\.)*"\s*:')


@READERS.register("jsonl")
class JSONLines(CorpusReader):
    """An object or a text a line, of which `text_field` is the text."""

    suffixes = (".jsonl", ".ndjson")

    def recognises(self, name: str, beginning: bytes) -> bool:
        """By its name, or by a first line that is an object, whatever the name."""
        if super().recognises(name, beginning):
            return True
        first, ended, _ = beginning.removeprefix(BOM).partition(b"\n")
        if ended:
            return isinstance(_parsed(first), dict)
        return bool(_OBJECT.match(first)) and not name.lower().endswith(".json")

    def documents(self, file: BinaryIO, name: str, reading: Reading) -> Iterator[Document]:
        """As in `CorpusReader`."""
        return documents_of_records(
            _records(PlainText.text(file, name), name, reading), "line", name, reading
        )


@READERS.register("json")
class JSONList(CorpusReader):
    """A list of objects or texts, read one after the other."""

    suffixes = (".json",)

    def recognises(self, name: str, beginning: bytes) -> bool:
        """By its name, or by a list that begins with an object, whatever the name.

        Many programs name records, one a line, ``.json``, too.
        """
        content = beginning.removeprefix(BOM)
        if self.is_list(content):
            return True
        line, _, others = content.partition(b"\n")
        is_lines = bool(others.strip()) and isinstance(_parsed(line), dict)
        return super().recognises(name, beginning) and not is_lines

    @staticmethod
    def is_list(beginning: bytes) -> bool:
        """Whether a file begins with a list whose first record is an object."""
        before, _, inner = beginning.removeprefix(BOM).partition(b"[")
        return not before.strip() and bool(_OBJECT.match(inner))

    def documents(self, file: BinaryIO, name: str, reading: Reading) -> Iterator[Document]:
        """As in `CorpusReader`."""
        return documents_of_records(
            _listed(PlainText.text(file, name), name), "record", name, reading
        )


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def numbered_records(
    file: BinaryIO, name: str, reading: Reading
) -> tuple[str, Iterator[tuple[int, Any]]]:
    """The records of a list, or one a line, with their numbers; and what these count."""
    parts = PlainText.text(file, name)
    first = next(parts, "")
    parts = chain([first], parts)
    if first.lstrip().startswith("["):
        return "record", _listed(parts, name)
    return "line", _records(parts, name, reading)


def _records(parts: Iterable[str], name: str, reading: Reading) -> Iterator[tuple[int, Any]]:
    lines = lines_of(parts, LONGEST_RECORD)
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        if len(line) > LONGEST_RECORD:
            reading.pass_over(name, f"line {number:,}", f"has over {LONGEST_RECORD:,} characters")
            continue
        try:
            record = _decoder.decode(line)
        except (ValueError, RecursionError) as error:
            why = f"is no JSON: {error}"
            if isinstance(error, RecursionError):
                why = "is nested too deeply"
            elif isinstance(error, json.JSONDecodeError):
                why = f"is no JSON: {error.msg} (character {error.pos + 1:,})"
            reading.pass_over(name, f"line {number:,}", why)
            continue
        yield number, record


def _listed(parts: Iterator[str], name: str) -> Iterator[tuple[int, Any]]:
    held, at, number = "", 0, 0
    fix = 'Give a list of records: [{"text": ...}, ...], or one a line with --format jsonl'

    def next_character() -> str:
        nonlocal held, at
        at = _space.match(held, at).end()
        while at == len(held) and (part := next(parts, None)) is not None:
            held = part
            at = _space.match(held).end()
        return held[at : at + 1]

    if next_character() != "[":
        raise UnknownStructureError(f"{name} holds no list, so which of it is text is unknown", fix)
    at += 1
    while next_character() != "]":
        number += 1
        while True:
            try:
                record, end = _decoder.raw_decode(held, at)
                # A number may go on in the next part.
                if end < len(held):
                    break
            except RecursionError:
                raise BadInputError(
                    f"{name}, record {number:,}: is nested too deeply", fix
                ) from None
            except ValueError:
                pass
            part = next(parts, None)
            if part is None or len(held) - at > LONGEST_RECORD:
                why = "is no JSON, or cut" if part is None else "is too long"
                raise BadInputError(f"{name}, record {number:,}: {why}", fix)
            # Only here is anything moved: a part has thousands of records.
            held, at = held[at:] + part, 0
        yield number, record
        at = end
        if next_character() == ",":
            at += 1
        elif next_character() != "]":
            raise BadInputError(f"{name}, record {number:,}: no comma follows", fix)
    at += 1
    if next_character():
        raise BadInputError(f"{name} goes on after its list, with {held[at : at + 20]!r}", fix)
