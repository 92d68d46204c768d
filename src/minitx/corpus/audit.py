"""Whether a holdout can be trusted: how much of it stands in the train part, too.

A model that has seen the holdout is judged by its memory. Equal documents land on one side of a
split by hash; what remains are near duplicates (found by MinHash, Broder 1997, over runs of words),
lines that stand everywhere, and passages in common (`common_passages`). Documents are compared in
passages of about a thousand characters, so that a long one is not hidden by its length.
"""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from minitx.corpus.common_passages import find_copied
from minitx.corpus.splitting import PartText, SplitCorpus
from minitx.files import json_bytes, read_json, write_atomically

AUDIT_FILE = "audit.json"

SIMILAR = 0.7
"""Part of the runs of words that two passages share, from which on they are near duplicates."""

MOST_AUDITED = 64 << 20
"""Bytes of each part that are compared before a training; `minitx corpus` compares all."""

_PASSAGE = 1000
_RUN_OF_WORDS = 5
_RUN_OF_CHARACTERS = 12
_PERMUTATIONS, _BANDS = 128, 16
_SHOWN_PAIRS, _SHOWN_LINES = 3, 5
_LONG_LINE = 20
_OFTEN = 5
_MOST_COPIED_FROM, _MOST_SEARCHED = 1 << 18, 16 << 20
_MOST_LIKE_ONE = 8
_COMMON_BYTES = 100
_SHOWN = 80

_WORDS = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class Pair:
    """A passage of the holdout, and one of the train part like it."""

    holdout: str
    train: str
    similarity: float
    text: str


@dataclass(frozen=True)
class Audit:
    """What the two parts have in common.

    Attributes:
        share: part of the holdout's bytes that lies in near duplicates of passages of the train
            part.
        pairs: the most similar and longest of these.
        leaked: bytes of the holdout from and to which they lie.
        common_share, longest: part of the holdout (of a sample, if it is long) that lies in
            passages of 100 bytes or more that the train part has to the letter; and the longest.
        boilerplate: lines that stand in both parts, five times or more, and how often.
        is_sample: not all was compared.
    """

    share: float
    pairs: tuple[Pair, ...]
    leaked: tuple[tuple[int, int], ...]
    common_share: float
    longest: str
    boilerplate: tuple[tuple[str, int], ...]
    is_sample: bool
    needs: str = ""  # What has to be installed for near duplicates.

    @property
    def is_clean(self) -> bool:
        """Whether nothing was found that would matter."""
        return self.share < 0.001 and self.common_share < 0.01

    def save(self, directory: Path) -> None:
        """Keep it beside the corpus."""
        write_atomically(directory / AUDIT_FILE, json_bytes(asdict(self)))


def read_audit(directory: Path) -> Audit | None:
    """The audit that is kept beside a corpus; None if there is none that can be used."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        values = read_json(directory / AUDIT_FILE)
        values["pairs"] = tuple(Pair(**pair) for pair in values["pairs"])
        for key in ("leaked", "boilerplate"):
            values[key] = tuple(map(tuple, values[key]))
        return Audit(**values)
    return None


def audit(split: SplitCorpus, most: int | None = MOST_AUDITED) -> Audit:
    """Compare the parts of a corpus, up to `most` bytes of each; None for all."""
    is_sample = most is not None and max(split.train.n_bytes, split.holdout.n_bytes) > most
    pairs, leaked, needs = _near_duplicates(split, most)
    n_holdout = sum(end - start for start, end in _spans(split.holdout, most))
    share = sum(end - start for start, end in leaked) / max(1, n_holdout)
    held = "".join(text for _, _, text in _passages(split.holdout, _MOST_COPIED_FROM))
    no_text = np.empty(0, np.uint8)
    train = np.memmap(split.train.path, np.uint8, "r") if split.train.n_bytes else no_text
    common = find_copied([held], train[: most and _MOST_SEARCHED], _COMMON_BYTES)
    return Audit(
        share, pairs, leaked, common.copied_share,
        common.longest if common.longest_bytes >= _COMMON_BYTES else "",
        _boilerplate(split, most), is_sample, needs,
    )  # fmt: skip


@dataclass
class _Index:
    """Near duplicates of what was added."""

    lsh: Any
    minhash: Any
    sketches: list[Any] = field(default_factory=list)

    def sketch(self, text: str) -> Any:
        words = _WORDS.findall(text)
        if len(words) * _RUN_OF_CHARACTERS < len(text):  # Written without spaces.
            words, n = list(text), _RUN_OF_CHARACTERS
        else:
            n = _RUN_OF_WORDS
        sketch = self.minhash(num_perm=_PERMUTATIONS, seed=1)
        sketch.update(["\0".join(words[i : i + n]) for i in range(max(1, len(words) - n + 1))])
        return sketch


def _near_duplicates(
    split: SplitCorpus, most: int | None
) -> tuple[tuple[Pair, ...], tuple[tuple[int, int], ...], str]:
    try:
        from rensa import RMinHash, RMinHashLSH  # type: ignore[import-untyped]
    except ImportError:
        return (), (), "pip install 'minitx[data]'"
    lsh = RMinHashLSH(threshold=SIMILAR, num_perm=_PERMUTATIONS, num_bands=_BANDS)
    index = _Index(lsh, RMinHash)
    # The holdout is the smaller part: it is kept, and the train part streams by.
    held = list(_passages(split.holdout, most))
    for i, (_, _, text) in enumerate(held):
        sketch = index.sketch(text)
        index.sketches.append(sketch)
        lsh.insert(i, sketch)
    best: dict[int, tuple[float, int, str]] = {}
    for start, _, text in _passages(split.train, most):
        sketch = index.sketch(text)
        for i in lsh.query(sketch)[:_MOST_LIKE_ONE]:
            similarity = index.sketches[i].jaccard(sketch)
            if similarity >= max(SIMILAR, best.get(i, (0.0,))[0] + 1e-9):
                best[i] = (similarity, start, text)
    leaked = _merged([(held[i][0], held[i][1]) for i in sorted(best)])
    worst = sorted(best, key=lambda i: (-best[i][0] * len(held[i][2]), i))[:_SHOWN_PAIRS]
    pairs = tuple(
        Pair(
            split.name_of(split.holdout, held[i][0]), split.name_of(split.train, best[i][1]),
            best[i][0], " ".join(held[i][2].split())[:_SHOWN],
        )
        for i in worst
    )  # fmt: skip
    return pairs, leaked, ""


def _merged(spans: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    merged: list[tuple[int, int]] = []
    for start, end in spans:
        if merged and merged[-1][1] == start:
            merged[-1] = (merged[-1][0], end)
        else:
            merged.append((start, end))
    return tuple(merged)


def _spans(part: PartText, most: int | None) -> Iterator[tuple[int, int]]:
    return ((start, end) for start, end, _ in _passages(part, most))


def _passages(part: PartText, most: int | None) -> Iterator[tuple[int, int, str]]:
    """Where passages begin and end, in bytes, and what they say: documents, or pieces of long ones,
    cut at lines where there are some."""
    start = 0
    for document in part.documents():
        held = ""
        for text in document:
            held += text
            while len(held) > 2 * _PASSAGE:
                cut = held.rfind("\n", 0, _PASSAGE) + 1 or _PASSAGE
                end = start + len(held[:cut].encode("utf-8"))
                yield start, end, held[:cut]
                held, start = held[cut:], end
        if held:
            end = start + len(held.encode("utf-8"))
            yield start, end, held
            start = end
        if most is not None and start >= most:
            return


def _boilerplate(split: SplitCorpus, most: int | None) -> tuple[tuple[str, int], ...]:
    """Long lines that both parts have."""
    counts: Counter[str] = Counter()
    for _, _, text in _passages(split.holdout, most):
        counts.update(line for line in text.splitlines() if len(line) >= _LONG_LINE)
    repeated: Counter[str] = Counter()
    for _, _, text in _passages(split.train, most):
        repeated.update(line for line in text.splitlines() if line in counts)
    often = {line: count + counts[line] for line, count in repeated.items()}
    lines = sorted(often.items(), key=lambda item: (-item[1] * len(item[0]), item[0]))
    return tuple((line[:_SHOWN], n) for line, n in lines if n >= _OFTEN)[:_SHOWN_LINES]
