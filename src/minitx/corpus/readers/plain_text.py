"""Plain text in UTF-8: prose, source code, and whatever no other reader recognises."""

from __future__ import annotations

import codecs
import contextlib
import unicodedata
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import BinaryIO

from minitx.corpus.documents import Document, Reading, separated
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

    def documents(self, file: BinaryIO, name: str, reading: Reading) -> Iterator[Document]:
        """As in `CorpusReader`: one, unless something stands between several."""
        text = self.text(file, name)
        if reading.separator is None:
            yield Document(text, name)
        else:
            yield from separated(text, reading.separator, name)

    @staticmethod
    def text(file: BinaryIO, name: str) -> Iterator[str]:
        """All of it, in parts cut anywhere.

        Raises:
            BadInputError: as in `decoded`.
        """
        first = file.read(_BLOCK)
        start = len(BOM) if first.startswith(BOM) else 0
        return decoded(chain([first[start:]], iter(lambda: file.read(_BLOCK), b"")), name, start)


def decoded(blocks: Iterable[bytes], name: str, start: int = 0) -> Iterator[str]:
    """Decode UTF-8 that comes in blocks, cut anywhere; the first has this offset in its file.

    Raises:
        BadInputError: it is binary, or is not UTF-8 (with the offset of the first bad byte).
    """
    decoder, has_mark = codecs.getincrementaldecoder("utf-8")(), start == len(BOM)
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
                way_to_utf8(BOM * has_mark + error.object, bad, not block),
            ) from None
        start += len(block)


def lines_of(parts: Iterable[str], longest: int) -> Iterator[str]:
    """Lines with their ends, of a text in parts; of one that is longer, a little more than so
    many characters, so that this can be seen."""
    held: list[str] = []
    size = 0
    for part in parts:
        first, *others = part.split("\n")
        if size <= longest:
            held.append(first)
            size += len(first)
        if not others:
            continue
        yield f"{''.join(held)}\n"
        for line in others[:-1]:
            yield f"{line}\n"
        held, size = [others[-1]], len(others[-1])
    if last := "".join(held):
        yield last


_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
_FOREIGN = {
    b"%PDF-": "a PDF document; export its text to a .txt file",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive; unpack it",
    b"Rar!": "a RAR archive; unpack it",
    b"\x04\x22\x4d\x18": "compressed by lz4; unpack it",
    b"\x1f\x9d": "compressed by compress; unpack it",
    b"SQLite format 3": "an SQLite database; write its texts to a .jsonl file",
}
_LOOKED_AT = 4096
_CONTROLS = bytes({*range(1, 32)} - {*b"\t\n\f\r\x1b"})
_NO_TEXT = {"Cc", "Cn", "Co", "Cs"}


def way_to_utf8(block: bytes, offset: int = 0, is_end: bool = False) -> str:
    """How to make UTF-8 of a text that is none, from a block of it.

    `offset` is that of the first bad byte in the file; with `is_end`, only the end is missing.
    """
    for mark, told in _FOREIGN.items():
        if block.startswith(mark):
            return f"It is {told}"
    if name := _wide_encoding(block):
        return f"It looks like {name}; convert it with iconv -f {name} -t utf-8"
    if b"\0" in block:
        return "Give a text; from one with stray zero bytes, take them out with tr -d '\\000'"
    if is_end:
        return f"It ends inside a character; get the rest, or cut it there with head -c {offset}"
    text = block.decode("utf-8", "replace")
    n_bad, n_other = text.count("\ufffd"), sum(not character.isascii() for character in text)
    is_cut = offset == 0 and 0x80 <= block[0] < 0xC0
    if n_other > 2 * n_bad or is_cut or block.startswith(BOM):
        return "It is damaged UTF-8; leave out what is broken with iconv -c -f utf-8 -t utf-8"
    # Windows has quotes and dashes where Latin-1 has control characters.
    name = "cp1252" if any(0x80 <= byte < 0xA0 for byte in block) else "latin1"
    return f"If it is Western text, convert it with iconv -f {name} -t utf-8"


def _wide_encoding(block: bytes) -> str | None:
    """UTF-16 or UTF-32, if a block is that; with the order of its bytes where no mark tells it."""
    for mark, name in _MARKS.items():
        if block.startswith(mark):
            return name
    beginning = block[:_LOOKED_AT]
    others = beginning.replace(b"\0", b"")
    n_controls = len(others) - len(others.translate(None, _CONTROLS))
    # What was looked at may end inside a character.
    is_utf8 = "\ufffd" not in others.decode("utf-8", "replace")[:-1]
    # Half of the bytes of many scripts are low numbers there, which no text in bytes has often.
    has_controls = 50 * n_controls > len(beginning)
    if not has_controls and (
        0 not in beginning or (is_utf8 and 4 * len(others) > 3 * len(beginning))
    ):
        return None
    rows: dict[str, int] = {}
    for name in ("UTF-32LE", "UTF-32BE", "UTF-16LE", "UTF-16BE"):
        with contextlib.suppress(UnicodeDecodeError):
            text = codecs.getincrementaldecoder(name)().decode(beginning)
            in_rows = len({ord(character) >> 8 for character in text})
            if _is_text(text, in_rows):
                rows[name] = in_rows
    # In the wrong order of bytes, characters come from all over Unicode.
    return min(rows, key=rows.__getitem__, default=None)


def _is_text(text: str, n_rows: int) -> bool:
    """Whether a person can have written that, from so many rows of 256 characters each.

    Bytes of something else, taken in pairs, make characters of many scripts, or rare Chinese ones.
    """
    if not text or any(not c.isspace() and unicodedata.category(c) in _NO_TEXT for c in text):
        return False
    used = "".join(set(text))
    if n_rows <= 3 or (n_rows <= 12 and 4 * n_rows <= len(used)):
        return True
    east = ("gb2312", "big5", "shift_jis", "euc_kr")
    kept = max(len(used.encode(name, "ignore").decode(name)) for name in east)
    return kept >= 0.9 * len(used)
