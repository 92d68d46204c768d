"""Plain text in UTF-8: prose, source code, and whatever no other reader recognises."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import BinaryIO

from minitx.corpus.encodings import way_to_utf8
from minitx.corpus.readers import READERS, CorpusReader
from minitx.errors import BadInputError

BOM = b"\xef\xbb\xbf"
"""Byte order mark, which some editors put before UTF-8; no part of the text."""

_BLOCK = 1 << 20


@READERS.register("text")
class PlainText(CorpusReader):
    """The bytes of a file as UTF-8, all of them but a byte order mark; line ends are kept."""

    suffixes = tuple(
        ".txt .md .rst .tex .org .adoc .py .pyi .c .h .cpp .hpp .cc .rs .go .java .js .ts .css "  # noqa: SIM905
        ".html .htm .xml .json .jsonl .toml .yaml .yml .ini .cfg .sh .sql .csv .tsv .srt .r .jl "
        ".lua .rb .hs .ml .el .lisp .scm .swift .kt".split()
    )

    def texts(self, file: BinaryIO, name: str) -> Iterator[str]:
        """As in `CorpusReader`."""
        first = file.read(_BLOCK)
        start = len(BOM) if first.startswith(BOM) else 0
        return decoded(chain([first[start:]], iter(lambda: file.read(_BLOCK), b"")), name, start)


def decoded(blocks: Iterable[bytes], name: str, start: int = 0) -> Iterator[str]:
    """Decode UTF-8 that comes in blocks, cut anywhere; the first has this offset in its file.

    Raises:
        BadInputError: it is binary, or is not UTF-8 (with the offset of the first bad byte).
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    for block in chain(blocks, [b""]):
        if (zero := block.find(b"\0")) >= 0:
            raise BadInputError(
                f"{name} is binary, not text: byte {start + zero:,} is zero", way_to_utf8(block)
            )
        # What is left of a character that the last block cut.
        pending = len(decoder.getstate()[0])
        try:
            yield decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            bad = start - pending + error.start
            raise BadInputError(
                f"{name} is not UTF-8: byte {bad:,} is "
                f"0x{error.object[error.start]:02x} ({error.reason})",
                way_to_utf8(error.object, bad, not block),
            ) from None
        start += len(block)
