"""JSON: a record a line, or a list of records."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, BinaryIO

from minitx.corpus.documents import Document, Reading
from minitx.corpus.readers import READERS, CorpusReader
from minitx.corpus.readers.plain_text import PlainText
from minitx.corpus.readers.records import documents_of_records
from minitx.errors import BadInputError

LONGEST_RECORD = 64 << 20
"""Characters: a longer one is no note but another file in a line."""

_decoder = json.JSONDecoder()


@READERS.register("jsonl")
class JSONLines(CorpusReader):
    """An object or a text a line, of which `text_field` is the text."""

    suffixes = (".jsonl", ".ndjson")

    def recognises(self, name: str, beginning: bytes) -> bool:
        """By its name, or by a first line that is an object, whatever the name."""
        if super().recognises(name, beginning):
            return True
        first, ended, _ = beginning.lstrip(b"\xef\xbb\xbf").partition(b"\n")
        return bool(ended) and first.startswith(b"{") and isinstance(_parsed(first), dict)

    def documents(self, file: BinaryIO, name: str, reading: Reading) -> Iterator[Document]:
        """As in `CorpusReader`."""
        return documents_of_records(_records(file, name, reading), "line", name, reading)


@READERS.register("json")
class JSONList(CorpusReader):
    """A list of objects or texts, read one after the other."""

    suffixes = (".json",)

    def documents(self, file: BinaryIO, name: str, reading: Reading) -> Iterator[Document]:
        """As in `CorpusReader`."""
        return documents_of_records(_listed(file, name), "record", name, reading)


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _records(file: BinaryIO, name: str, reading: Reading) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(_lines(file, name), start=1):
        if not line.strip():
            continue
        if len(line) > LONGEST_RECORD:
            reading.pass_over(name, f"line {number:,}", f"has over {LONGEST_RECORD:,} characters")
            continue
        try:
            record = _decoder.decode(line)
        except (ValueError, RecursionError) as error:
            is_deep = isinstance(error, RecursionError)
            why = "is nested too deeply" if is_deep else f"is no JSON: {error}"
            reading.pass_over(name, f"line {number:,}", why)
            continue
        yield number, record


def _lines(file: BinaryIO, name: str) -> Iterator[str]:
    """Lines without their ends; of one that is too long, so much that this can be seen."""
    rest = ""
    for part in PlainText.text(file, name):
        *ended, last = part.split("\n")
        if not ended:
            rest = (rest + last)[: LONGEST_RECORD + 1]
            continue
        yield rest + ended[0]
        yield from ended[1:]
        rest = last
    yield rest


def _listed(file: BinaryIO, name: str) -> Iterator[tuple[int, Any]]:
    parts, held, number = PlainText.text(file, name), "", 0
    fix = 'Give a list of records: [{"text": ...}, ...], or one a line in a .jsonl'

    def next_character() -> str:
        nonlocal held
        held = held.lstrip()
        while not held and (part := next(parts, None)) is not None:
            held = part.lstrip()
        return held[:1]

    if next_character() != "[":
        raise BadInputError(f"{name} holds no list, so which of it is text is unknown", fix)
    held = held[1:]
    while next_character() != "]":
        number += 1
        while True:
            try:
                record, end = _decoder.raw_decode(held)
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
            if part is None or len(held) > LONGEST_RECORD:
                why = "is no JSON, or cut" if part is None else "is too long"
                raise BadInputError(f"{name}, record {number:,}: {why}", fix)
            held += part
        yield number, record
        held = held[end:]
        if next_character() == ",":
            held = held[1:]
        elif next_character() != "]":
            raise BadInputError(f"{name}, record {number:,}: no comma follows", fix)
