"""Where the loss comes from: by position, by kind of token, by how common it is, by confidence.

**Position**: does the model use what came before, and how much of it? In windows side by side, the
target at position p is predicted from p + 1 tokens. If the loss falls up to position 60 and no
further, tokens more than 60 back are of no use to the model.

**Kind**: what does it find hard? Every token is of one class, by its first character that is no
space (`` the`` is a letter), or `space` if it has no other. A token of letters is a new word if no
letter precedes it, in-word otherwise. By how often the train part has it, every token is in one of
five groups.

**Confidence**: does it know what it does not know? Predictions are sorted into bins by the
probability of the likeliest token. In a calibrated model, of those made with 70 % about 70 % come
true. The expected calibration error is the mean distance of the two, weighted by how many
predictions a bin has (Guo et al. 2017, section 2).

**Passages**: those with the highest loss, token by token.
"""

from __future__ import annotations

import heapq
import math
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from minitx.corpus.encoded_file import release
from minitx.evaluation.arrays import Float32Array, GroupedSums, IdArray, IntArray
from minitx.tokenizer import Tokenizer

NOTABLE = 0.01
"""Part of the loss by which more context must lower it to count as used."""

CLASSES = ("space", "new word", "in-word", "digit", "punctuation", "other")
LETTER_KINDS = ("new word", "in-word")

_COUNTED_AT_ONCE = 1 << 22
_SPACE, _NEW_WORD, _IN_WORD, _DIGIT, _PUNCTUATION, _OTHER = range(len(CLASSES))

CLASS_GROUPS: dict[str, tuple[int, ...]] = {
    "space": (_SPACE,),
    "letter": (_NEW_WORD, _IN_WORD),
    **{name: (i,) for i, name in enumerate(CLASSES) if i != _SPACE},
}
"""What is shown: each class, and before those of letters the two together."""

FREQUENCIES = (
    ("the commonest half", 0.5),
    ("next 40 %", 0.9),
    ("next 9 %", 0.99),
    ("rarest 1 %", 1.0),
    ("never seen", 1.0),
)
"""Groups of tokens by the part of the train text that they and all commoner ones make up."""

FREQUENCY_GROUPS = {name: (i,) for i, (name, _) in enumerate(FREQUENCIES)}

BINS = 10
PASSAGES = 10


@dataclass(frozen=True)
class PositionBucket:
    """Targets predicted from about as many tokens.

    Attributes:
        first, last: tokens seen, from and to.
        loss: nats per token.
        standard_error: of that mean, as if tokens were independent.
    """

    first: int
    last: int
    tokens: int
    loss: float
    standard_error: float


@dataclass(frozen=True)
class ContextUse:
    """Loss by tokens seen.

    Attributes:
        buckets: by rising length of context, each about twice as long as the one before.
        used_length: tokens of context beyond which the loss falls no further: an upper bound, to
            the end of a bucket; `context_length` if it falls to the end.
        context_length: most tokens seen.
    """

    buckets: tuple[PositionBucket, ...]
    used_length: int
    context_length: int


def context_use(sums: GroupedSums) -> ContextUse:
    """Loss by tokens seen, from the sums of losses and of their squares by position in a window."""
    n = len(sums.counts)
    buckets, first = [], 0
    while first < n:
        last = min(n, 2 * first or 1)
        # What is left over joins its neighbour, rather than being a bucket of a few.
        if n - last < (last - first) // 2:
            last = n
        if sums.counts[first:last].sum():
            buckets.append(_bucket(sums, first, last))
        first = last
    return ContextUse(tuple(buckets), _used_length(sums, buckets), n)


def _bucket(sums: GroupedSums, first: int, last: int) -> PositionBucket:
    tokens = float(sums.counts[first:last].sum())
    mean, square = (sums.sums[:, first:last].sum(1) / tokens).tolist()
    variance = max(0.0, square - mean * mean)
    return PositionBucket(first + 1, last, int(tokens), mean, math.sqrt(variance / tokens))


def _used_length(sums: GroupedSums, buckets: list[PositionBucket]) -> int:
    # The first bucket than which neither any later one nor all later ones are clearly better.
    for bucket in buckets[:-1]:
        later = [other for other in buckets if other.first > bucket.last]
        rest = _bucket(sums, bucket.last, len(sums.counts))
        if not any(_is_better(other, bucket) for other in (*later, rest)):
            return bucket.last
    return len(sums.counts)


def _is_better(later: PositionBucket, bucket: PositionBucket) -> bool:
    gain = bucket.loss - later.loss
    chance = 2 * math.hypot(bucket.standard_error, later.standard_error)
    return gain > chance and gain > NOTABLE * bucket.loss


@dataclass(frozen=True)
class ClassLoss:
    """Loss of some kind of token.

    Attributes:
        tokens, share: that were scored, and their share of all that were.
        loss: nats per token.
        share_of_loss: of the total loss.
    """

    name: str
    tokens: int
    share: float
    loss: float
    share_of_loss: float


def group_losses(sums: GroupedSums, groups: Mapping[str, Sequence[int]]) -> tuple[ClassLoss, ...]:
    """The groups that have tokens, each made of some of those by which losses were summed."""
    all_tokens, all_nats = sums.counts.sum(), sums.sums[0].sum()
    losses: list[ClassLoss] = []
    for name, members in groups.items():
        tokens, nats = (float(row[list(members)].sum()) for row in (sums.counts, sums.sums[0]))
        if tokens:
            share, share_of_loss = tokens / all_tokens, nats / all_nats if all_nats else 0.0
            losses.append(
                ClassLoss(name, int(tokens), float(share), nats / tokens, float(share_of_loss))
            )
    return tuple(losses)


class TokenClasses:
    """Tells the class of tokens in a text."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        # A part of a character is not text, and ends up in `other`.
        texts = [
            "" if i == tokenizer.unknown_id else tokenizer.token_bytes(i).decode("utf-8", "replace")
            for i in range(tokenizer.vocab_size)
        ]
        self._class = np.array([_class(text) for text in texts], dtype=np.int64)
        self._ends_in_letter = np.array([text[-1:].isalpha() for text in texts])
        self._starts_with_letter = np.array([text[:1].isalpha() for text in texts])

    def of(self, targets: IdArray, before: IdArray) -> IntArray:
        """Index into `CLASSES` of each target, given the token before it; all `(n,)`."""
        classes: IntArray = self._class[targets].copy()
        inside = self._starts_with_letter[targets] & self._ends_in_letter[before]
        classes[(classes == _NEW_WORD) & inside] = _IN_WORD
        return classes


def count_ids(ids: IdArray, vocab_size: int) -> IntArray:
    """How often a text has each id, `(vocab_size,)`; a memory map is read in pieces."""
    counts = np.zeros(vocab_size, np.int64)
    for start in range(0, len(ids), _COUNTED_AT_ONCE):
        counts += np.bincount(ids[start : start + _COUNTED_AT_ONCE], minlength=vocab_size)
        release(ids)
    return counts


def frequency_groups(train_counts: IdArray) -> IntArray:
    """Index into `FREQUENCIES` of each id, by how often the train part has it; `(vocab_size,)`."""
    order = np.argsort(-train_counts, kind="stable")
    total = max(1, int(train_counts.sum()))
    # Share of all more common ids: so the most common id is in the first group, even if it is all.
    before = (np.cumsum(train_counts[order]) - train_counts[order]) / total
    bounds = [limit for _, limit in FREQUENCIES[:3]]
    groups = np.empty(len(train_counts), dtype=np.int64)
    groups[order] = np.searchsorted(bounds, before, side="right")
    groups[train_counts == 0] = len(FREQUENCIES) - 1
    return groups


def _class(text: str) -> int:
    if not text:
        return _OTHER
    stripped = text.lstrip()
    if not stripped:
        return _SPACE
    first = stripped[0]
    if first.isalpha():
        return _NEW_WORD
    if first.isnumeric():
        return _DIGIT
    # Symbols such as + and $ read as punctuation; U+FFFD is what could not be decoded.
    if unicodedata.category(first)[0] in "PS" and first != "\ufffd":
        return _PUNCTUATION
    return _OTHER


@dataclass(frozen=True)
class ReliabilityBin:
    """Predictions with confidence between `low` and `high`: their mean, and how many came true."""

    low: float
    high: float
    tokens: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class CalibrationCurve:
    """The reliability curve and its summary.

    Attributes:
        accuracy: how often the likeliest token is the target.
        confidence: mean probability of the likeliest token.
        expected_calibration_error: mean distance between the two over the bins.
        bins: by rising confidence; empty ones are left out.
    """

    accuracy: float
    confidence: float
    expected_calibration_error: float
    bins: tuple[ReliabilityBin, ...]


def confidence_bins(confidence: Float32Array) -> IntArray:
    """Index of the bin of each prediction by the probability of its likeliest token, `(n,)`."""
    return np.minimum((confidence.astype(np.float64) * BINS).astype(np.int64), BINS - 1)


def calibration_curve(sums: GroupedSums) -> CalibrationCurve:
    """The curve, from the sums of confidence and of right predictions by bin."""
    tokens, (confidence, correct) = sums.counts, sums.sums
    n = max(1.0, float(tokens.sum()))
    bins = tuple(
        ReliabilityBin(
            low=i / BINS,
            high=(i + 1) / BINS,
            tokens=int(tokens[i]),
            confidence=float(confidence[i] / tokens[i]),
            accuracy=float(correct[i] / tokens[i]),
        )
        for i in np.flatnonzero(tokens).tolist()
    )
    return CalibrationCurve(
        accuracy=float(correct.sum() / n),
        confidence=float(confidence.sum() / n),
        expected_calibration_error=float(np.abs(correct - confidence).sum() / n),
        bins=bins,
    )


@dataclass(frozen=True)
class SurprisingText:
    """A passage that surprised the model: text and loss (nats) of each token, and their mean.

    It begins at the token of index `start` of the text.
    """

    start: int
    loss: float
    tokens: tuple[str, ...]
    losses: tuple[float, ...]


class SurprisingPassages:
    """Keeps the worst passages as losses stream by; they don't overlap.

    They have `length` tokens, an even number, and begin at every half of that; `piece` gives the
    text of a token.
    """

    def __init__(self, length: int, piece: Callable[[int], str], count: int = PASSAGES) -> None:
        self._half = max(1, length // 2)
        self._piece = piece
        self._count = count
        self._worst: list[SurprisingText] = []
        self._index = np.empty(0, np.int64)
        self._ids = np.empty(0, np.int64)
        self._losses = np.empty(0, np.float32)

    def add(self, index: IntArray, targets: IdArray, losses: Float32Array) -> None:
        """Add targets in the order of the text: where they are, what they are, their losses."""
        self._index = np.concatenate([self._index, index])
        self._ids = np.concatenate([self._ids, targets])
        self._losses = np.concatenate([self._losses, losses])
        half = self._half
        n_halves = len(self._index) // half
        if n_halves < 2:
            return
        in_halves = self._losses[: n_halves * half].astype(np.float64)
        sums = in_halves.reshape(n_halves, half).sum(1)
        # Only where tokens lie side by side: a part of a text is scored in pieces.
        starts = np.arange(n_halves - 1) * half
        joined = self._index[starts + 2 * half - 1] - self._index[starts] == 2 * half - 1
        # One that is chosen rules out its two neighbours at most, so three times as many suffice.
        most = 3 * self._count
        falling = np.argsort(-(sums[:-1] + sums[1:])[joined], kind="stable")[:most]
        passages = map(self._passage, starts[joined][falling].tolist())
        self._worst = heapq.nlargest(most, [*self._worst, *passages], key=lambda text: text.loss)
        # The last half may go on.
        kept = (n_halves - 1) * half
        self._index, self._ids = self._index[kept:], self._ids[kept:]
        self._losses = self._losses[kept:]

    def result(self) -> list[SurprisingText]:
        """The worst passages that don't overlap, the worst first."""
        chosen: list[SurprisingText] = []
        for passage in self._worst:
            if all(abs(passage.start - other.start) >= 2 * self._half for other in chosen):
                chosen.append(passage)
        return chosen[: self._count]

    def _passage(self, first: int) -> SurprisingText:
        part = slice(first, first + 2 * self._half)
        losses = tuple(self._losses[part].tolist())
        tokens = tuple(map(self._piece, self._ids[part].tolist()))
        return SurprisingText(int(self._index[first]), sum(losses) / len(losses), tokens, losses)
