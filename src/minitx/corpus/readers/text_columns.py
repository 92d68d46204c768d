"""Tables with a column of texts: CSV, TSV, Parquet and Arrow."""

from __future__ import annotations

import contextlib
import csv
import difflib
import re
from collections.abc import Callable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO

from minitx.corpus.documents import Document, Reading, UnknownStructureError
from minitx.corpus.readers import READERS, CorpusReader
from minitx.corpus.readers.chats import conversations
from minitx.corpus.readers.plain_text import BOM, PlainText, lines_of
from minitx.corpus.readers.records import USUAL_FIELDS, documents_of_records, usual_field
from minitx.corpus.unpacking import seekable
from minitx.errors import BadInputError
from minitx.tokenizer.conversation import FIELDS

_LONGEST_CELL = 64 << 20

_DELIMITERS = ",\t;|"


@READERS.register("csv")
class SeparatedValues(CorpusReader):
    """Rows of cells between commas (RFC 4180), tabs, semicolons or bars; the first names them."""

    suffixes = (".csv", ".tsv")

    def recognises(self, name: str, beginning: bytes) -> bool:
        """By its name; where that says nothing, by a first row of names, a usual one among them,
        and a second row of as many cells."""
        if Path(name).suffix:
            return super().recognises(name, beginning)
        lines = beginning.removeprefix(BOM).decode("utf-8", "ignore").splitlines()
        with contextlib.suppress(csv.Error):
            for delimiter in _DELIMITERS:
                rows = list(islice(csv.reader(lines, delimiter=delimiter), 2))
                if len(rows) == 2 and len(rows[0]) == len(rows[1]) > 1:
                    names = all(re.fullmatch(r"[\w-]+", cell) for cell in rows[0])
                    return names and not set(USUAL_FIELDS).isdisjoint(rows[0])
        return False

    def documents(self, file: BinaryIO, name: str, reading: Reading) -> Iterator[Document]:
        """As in `CorpusReader`."""
        parts = PlainText.text(file, name)
        first = next(parts, "")
        header = first.split("\n", 1)[0]
        # Of what may stand between cells, what stands most often in the first line.
        delimiter = (
            "\t" if Path(name).suffix.lower() == ".tsv" else max(_DELIMITERS, key=header.count)
        )
        csv.field_size_limit(_LONGEST_CELL)
        lines = lines_of(chain([first], parts), _LONGEST_CELL)
        # Strict: a quote that nobody closes is told, not taken for a text to the end of the file.
        rows = _rows(csv.reader(lines, delimiter=delimiter, strict=True), name, reading)
        _, columns = next(rows, (0, []))
        if not columns:
            return iter(())
        field = _column(columns, name, reading)
        records = _records(columns, rows, name, reading)
        return documents_of_records(records, "line", name, reading, field)


def _records(
    columns: list[str], rows: Iterator[tuple[int, list[str]]], name: str, reading: Reading
) -> Iterator[tuple[int, dict[str, str]]]:
    for number, row in rows:
        if len(row) == len(columns):
            yield number, dict(zip(columns, row, strict=True))
        else:
            why = f"has {len(row):,} cells, and the first line {len(columns):,}"
            reading.pass_over(name, f"line {number:,}", why)


def _rows(reader: Any, name: str, reading: Reading) -> Iterator[tuple[int, list[str]]]:
    """Rows that are not empty, with the number of their first line."""
    while True:
        number = reader.line_num + 1
        try:
            row = next(reader, None)
        except csv.Error as error:
            reading.pass_over(name, f"line {number:,}", str(error))
            continue
        if row is None:
            return
        if row:
            yield number, row


@READERS.register("parquet")
class Parquet(CorpusReader):
    """A column of a Parquet file, by pyarrow."""

    suffixes = (".parquet",)

    def recognises(self, name: str, beginning: bytes) -> bool:
        """By its first bytes, or its name."""
        return beginning.startswith(b"PAR1") or super().recognises(name, beginning)

    def documents(self, file: BinaryIO, name: str, reading: Reading) -> Iterator[Document]:
        """As in `CorpusReader`."""
        with _arrow_errors(name):
            from pyarrow import parquet  # type: ignore[import-untyped]

            source = parquet.ParquetFile(seekable(file))

            def rows_of(field: str) -> Any:
                return source.iter_batches(batch_size=1024, columns=[field])

            yield from _documents(source.schema_arrow, rows_of, "parquet", name, reading)


@READERS.register("arrow")
class Arrow(CorpusReader):
    """A column of an Arrow file or stream, as `datasets.save_to_disk` writes it, by pyarrow."""

    suffixes = (".arrow", ".feather")

    def recognises(self, name: str, beginning: bytes) -> bool:
        """By its first bytes, or its name."""
        return beginning.startswith(b"ARROW1") or super().recognises(name, beginning)

    def documents(self, file: BinaryIO, name: str, reading: Reading) -> Iterator[Document]:
        """As in `CorpusReader`."""
        with _arrow_errors(name):
            from pyarrow import ipc

            is_file = file.peek(6).startswith(b"ARROW1")  # type: ignore[attr-defined]
            if is_file:
                source = ipc.open_file(seekable(file))
                batches = (source.get_batch(i) for i in range(source.num_record_batches))
            else:
                source = batches = ipc.open_stream(file)

            def rows_of(field: str) -> Any:
                return (batch.select([field]) for batch in batches)

            yield from _documents(source.schema, rows_of, "arrow", name, reading)


def _documents(
    schema: Any, rows_of: Callable[[str], Any], kind: str, name: str, reading: Reading
) -> Iterator[Document]:
    """Those of a table: its conversations, if it has a column of them and none is named."""
    has_lists = (field.name for field in schema if "list" in str(field.type))
    chats = next((field for field in has_lists if field in FIELDS), None)
    if chats is not None and reading.text_field in (None, chats):
        reading.found_chats(kind)
        yield from conversations(_numbered(rows_of(chats), name, reading), "row", name, reading)
    else:
        rows = rows_of(_column(schema.names, name, reading, is_binary=True))
        yield from documents_of_records(_numbered(rows, name, reading), "row", name, reading)


def _numbered(batches: Any, name: str, reading: Reading) -> Iterator[tuple[int, Any]]:
    number = 0
    for batch in batches:
        for record in _rows_of(batch):
            number += 1
            if record is None:
                reading.pass_over(name, f"row {number:,}", "is not UTF-8")
            else:
                yield number, record


def _rows_of(batch: Any) -> list[Any]:
    """The rows as Python has them; None for one with a text that is not UTF-8, which pyarrow
    finds out this late."""
    try:
        rows: list[Any] = batch.to_pylist()
    except UnicodeDecodeError:
        one_by_one = (batch.slice(i, 1) for i in range(batch.num_rows))
        return [None] if batch.num_rows == 1 else [_rows_of(row)[0] for row in one_by_one]
    return rows


def _column(names: list[str], file: str, reading: Reading, is_binary: bool = False) -> str:
    """The column to read: the first part of a.b."""
    field = reading.text_field or usual_field(names, file, is_binary)
    for column in (field, field.partition(".")[0]):
        if column in names:
            return column
    nearest = next(iter(difflib.get_close_matches(field, names, 1, 0.0)), "text")
    raise UnknownStructureError(
        f"{file} has no column {field!r}, but {', '.join(names)}",
        f"Name one of them: --text-field {nearest}",
        is_binary,
    )


@contextlib.contextmanager
def _arrow_errors(name: str) -> Iterator[None]:
    try:
        yield
    except ImportError:
        raise BadInputError(
            f"{name} is a table that pyarrow reads, which is missing",
            'Install it with: pip install "minitx[data]"',
        ) from None
    except Exception as error:
        # Those of pyarrow derive from what they are like: ValueError, OSError, KeyError ...
        if not type(error).__module__.startswith("pyarrow") and not isinstance(error, OSError):
            raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadInputError(f"{name} can't be read as a table: {reason}", "Write it anew") from None
