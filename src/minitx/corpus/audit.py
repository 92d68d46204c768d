"""Whether a holdout can be trusted: how much of it stands in the train part, too.

A model that has seen the holdout is judged by its memory. The holdout is taken in passages: its
documents, and pieces of about a thousand bytes of long ones, cut at lines. A passage stands in the
train part if an equal document does, or if most of it does word for word, in stretches of about
fifty bytes or more (`shared_windows`), wherever these stand: so also one with some words changed.
"""

from __future__ import annotations

import contextlib
import mmap
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from minitx.corpus.part_text import PartText, block_sizes
from minitx.corpus.shared_windows import STRIDE, WINDOW, IntArray, SharedWindows, Stretches
from minitx.corpus.splitting import SplitCorpus
from minitx.files import json_bytes, read_json, write_atomically

AUDIT_FILE = "audit.json"

LEAKED_FROM = 0.7
"""Part of a passage from which on it counts as standing in the train part."""

MOST_HOLDOUT, MOST_TRAIN = 4 << 20, 256 << 20
"""Bytes of each part that are compared before a training, in a few seconds; of longer parts, pieces
that lie evenly."""

_PASSAGE = 1000
_STRETCH = 1 << 16
_BLOCK = 4 << 20
_SHOWN_PAIRS, _SHOWN_LINES = 3, 5
_SHORTEST_LINE = 20
_OFTEN = 5
_LONGEST = 1 << 16
_SHOWN = 80

Span = tuple[int, int]


@dataclass(frozen=True)
class Pair:
    """A passage of the holdout, where it stands in the train part, how much of it, and how it
    begins."""

    holdout: str
    train: str
    share: float
    text: str

    def __str__(self) -> str:
        place, source = (Path(name).name for name in (self.holdout, self.train))
        line = f"{place}: {self.share:.0%} in {source}: {self.text}"
        return line.encode("utf-8", "replace").decode()  # A file's name need not be UTF-8.


@dataclass(frozen=True)
class Audit:
    """What the two parts have in common.

    Attributes:
        share: part of the compared bytes of the holdout in passages that stand in the train part.
        pairs: the three that have most.
        leaked: bytes of the holdout from and to which these passages lie.
        compared: bytes of the holdout from and to which it was compared.
        copied_share: part of the compared bytes that lies in stretches of about fifty bytes or
            more that the train part has word for word.
        longest: the longest of these that was found, of which the first 65,536 bytes are kept.
        boilerplate: lines of both parts that stand five times or more there, and how often.
        train_share: part of the train part that was compared.
        is_sample: not all was compared.
    """

    share: float
    pairs: tuple[Pair, ...]
    leaked: tuple[Span, ...]
    compared: tuple[Span, ...]
    copied_share: float
    longest: str
    boilerplate: tuple[tuple[str, int], ...]
    train_share: float
    is_sample: bool

    def __str__(self) -> str:
        return f"{leak_text(self.share)}{f' ({self.sample})' if self.sample else ''}"

    @property
    def sample(self) -> str:
        """What was compared, in words; empty if it was all."""
        compared = sum(end - start for start, end in self.compared)
        text = f"compared: {compared / 1e6:,.1f} MB with {self.train_share:.0%} of the train part"
        return text if self.is_sample else ""

    def save(self, directory: Path) -> None:
        """Keep it beside the corpus."""
        write_atomically(directory / AUDIT_FILE, json_bytes(asdict(self)))


def amount_text(share: float) -> str:
    """How much of something, in words."""
    if not share:
        return "none"
    return "less than 0.1 %" if share < 0.001 else f"{100 * share:.1f} %"


def leak_text(share: float) -> str:
    """How much of the holdout also stands in the train part, in words."""
    also = "also " if share else ""
    return f"{amount_text(share)} of the holdout {also}stands in the train part"


def read_audit(directory: Path) -> Audit | None:
    """The audit that is kept beside a corpus; None if there is none that can be used."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        values = read_json(directory / AUDIT_FILE)
        values["pairs"] = tuple(Pair(**pair) for pair in values["pairs"])
        for key in ("leaked", "compared", "boilerplate"):
            values[key] = tuple(map(tuple, values[key]))
        return Audit(**values)
    return None


def audit(
    split: SplitCorpus,
    most_train: int | None = MOST_TRAIN,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Audit | None:
    """Compare the parts of a corpus; None if one of them is empty.

    Args:
        most_train: bytes of the train part to compare; None for all.
        progress: is told how many bytes of it were compared, of how many.
    """
    if not split.train.n_bytes or not split.holdout.n_bytes:
        return None
    return _Comparison(split, most_train).audit(progress)


@dataclass(frozen=True)
class _Passages:
    """Passages of the holdout that are compared: from and to which byte, of which document; and
    their text, one after the other."""

    starts: IntArray
    ends: IntArray
    document: IntArray
    content: bytes

    @property
    def sizes(self) -> IntArray:
        return self.ends - self.starts

    def limits(self) -> IntArray:
        """Where in `content` a document ends, or something was left out."""
        is_last = np.append(np.diff(self.document) != 0, True)
        is_last[:-1] |= self.ends[:-1] != self.starts[1:]
        limits: IntArray = np.cumsum(self.sizes)[is_last]
        return limits


class _Comparison:
    def __init__(self, split: SplitCorpus, most_train: int | None) -> None:
        self._split, self._most_train = split, most_train
        self._train, self._holdout = split.train.table(), split.holdout.table()
        self._passages = _passages_of(split.holdout)

    def audit(self, progress: Callable[[int, int], None]) -> Audit:
        passages, limits = self._passages, self._train["end"]
        windows = SharedWindows(np.frombuffer(passages.content, np.uint8), passages.limits())
        lines = Counter(
            line for line in passages.content.split(b"\n") if len(line.strip()) >= _SHORTEST_LINE
        )
        repeated: Counter[bytes] = Counter()
        n_compared = 0
        for start, block in _blocks(self._split.train, self._most_train, progress):
            windows.look_up(np.frombuffer(block, np.uint8), start, limits)
            repeated.update(line for line in block[:_BLOCK].split(b"\n") if line in lines)
            n_compared += len(block[:_BLOCK])
        train = np.memmap(self._split.train.path, np.uint8, "r")
        stretches = windows.stretches(train, limits)
        covered = stretches.covered(len(passages.content))
        firsts = np.cumsum(passages.sizes) - passages.sizes
        copied = np.add.reduceat(covered, firsts, dtype=np.int64)
        hashes = self._holdout["hash"][passages.document]
        is_equal = np.isin(hashes, self._train["hash"]) & (hashes != 0)
        copied = np.where(is_equal, passages.sizes, copied)
        train_share = n_compared / self._split.train.n_bytes
        leaked = np.flatnonzero(copied >= LEAKED_FROM * passages.sizes)
        return Audit(
            share=float(passages.sizes[leaked].sum() / passages.sizes.sum()),
            pairs=tuple(self._pairs(leaked, copied, stretches)),
            leaked=_merged(passages.starts[leaked], passages.ends[leaked]),
            compared=_merged(passages.starts, passages.ends),
            copied_share=float(covered.mean()),
            longest=windows.longest(stretches, train, limits, _LONGEST).decode(errors="ignore"),
            boilerplate=_boilerplate(lines, repeated),
            train_share=train_share,
            is_sample=train_share < 1 or len(passages.content) < self._split.holdout.n_bytes,
        )

    def _pairs(self, leaked: IntArray, copied: IntArray, stretches: Stretches) -> Iterator[Pair]:
        """Those of which most bytes stand in the train part; neighbours are one."""
        passages = self._passages
        document, sizes = passages.document, passages.sizes
        firsts = np.cumsum(sizes) - sizes
        apart = (np.diff(leaked) != 1) | (np.diff(document[leaked]) != 0)
        runs = np.split(leaked, np.flatnonzero(apart) + 1) if len(leaked) else []
        runs.sort(key=lambda run: -int(copied[run].sum()))
        for run in runs[:_SHOWN_PAIRS]:
            first, n_bytes = int(firsts[run[0]]), int(sizes[run].sum())
            start = np.maximum(stretches.start, first)
            length = np.minimum(stretches.end, first + n_bytes) - start
            here = np.flatnonzero(length > 0)
            if len(here):
                # Where the document begins with it that has most of it.
                places = stretches.place[here] + (start - stretches.start)[here]
                of_each = np.searchsorted(self._train["end"], places, side="right")
                most = np.bincount(of_each, length[here]).argmax()
                place = int(places[of_each == most].min())
            else:
                equal = self._train["hash"] == self._holdout["hash"][document[run[0]]]
                place = int(np.append(0, self._train["end"])[equal.argmax()])
            text = passages.content[first : first + min(n_bytes, _PASSAGE)].decode(errors="ignore")
            yield Pair(
                self._name(self._split.holdout, int(passages.starts[run[0]])),
                self._name(self._split.train, place),
                float(copied[run].sum() / n_bytes), " ".join(text.split())[:_SHOWN],
            )  # fmt: skip

    def _name(self, part: PartText, position: int) -> str:
        """What a passage is called: its document, or file and line if that is a whole file."""
        name, table = self._split.name_of(part, position), part.table()
        document = int(np.searchsorted(table["end"], position, side="right"))
        begin = int(table["end"][document - 1]) if document else 0
        if table[document]["number"] or table[document]["end"] - begin <= 2 * _PASSAGE:
            return name
        line = 1 + _count_lines(part, begin, position)
        last, first = self._train[-1], table[0]
        is_first = part.name == "holdout" and not document
        if is_first and all(last[key] == first[key] for key in ("file", "number")):
            # What was held out is the end of this file.
            start = int(self._train["end"][-2]) if len(self._train) > 1 else 0
            line += _count_lines(self._split.train, start, int(last["end"]))
        return f"{name}, line {line:,}"


def _count_lines(part: PartText, start: int, end: int) -> int:
    with part.path.open("rb") as file:
        file.seek(start)
        return sum(file.read(size).count(b"\n") for size in block_sizes(end - start))


def _blocks(
    part: PartText, most: int | None, progress: Callable[[int, int], None]
) -> Iterator[tuple[int, bytes]]:
    """Blocks of a part that overlap by less than a window, and have about `most` bytes together."""
    size = part.n_bytes
    every = 1 if most is None else max(1, -(-size // most))
    with part.path.open("rb") as file:
        for start in range(0, size, every * _BLOCK):
            file.seek(start)
            yield start, file.read(_BLOCK + WINDOW - STRIDE)
            progress(min(size, start + every * _BLOCK), size)


def _passages_of(part: PartText) -> _Passages:
    """Passages of a part; of a long one, stretches of 64 KB that lie evenly."""
    ends, size = part.table()["end"], part.n_bytes
    every = max(1, -(-size // MOST_HOLDOUT))
    length = _STRETCH if every > 1 else size
    rows: list[tuple[int, int, int]] = []
    content = []
    with (
        part.path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text,
    ):
        for first in range(0, size, every * length):
            start, last = first, min(size, first + length)
            document = int(np.searchsorted(ends, start, side="right"))
            while start < last:
                end = min(int(ends[document]), last)
                while end - start > 2 * _PASSAGE:
                    cut = text.rfind(b"\n", start, start + _PASSAGE) + 1 or start + _PASSAGE
                    rows.append((start, cut, document))
                    start = cut
                rows.append((start, end, document))
                start, document = end, document + 1
            content.append(text[first:last])
    starts, ends, documents = np.array(rows, np.int64).T
    return _Passages(starts, ends, documents, b"".join(content))


def _merged(starts: IntArray, ends: IntArray) -> tuple[Span, ...]:
    """Spans, of which those that touch become one."""
    if not len(starts):
        return ()
    apart = starts[1:] != ends[:-1]
    firsts, lasts = np.append(True, apart), np.append(apart, True)
    return tuple(zip(starts[firsts].tolist(), ends[lasts].tolist(), strict=True))


def _boilerplate(held: Counter[bytes], train: Counter[bytes]) -> tuple[tuple[str, int], ...]:
    """Lines of both parts, by how many bytes they make up."""
    often = {line: count + held[line] for line, count in train.items()}
    lines = sorted(often.items(), key=lambda item: (-item[1] * len(item[0]), item[0]))
    return tuple(
        (line.decode(errors="ignore").strip()[:_SHOWN], n) for line, n in lines if n >= _OFTEN
    )[:_SHOWN_LINES]
