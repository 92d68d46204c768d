"""Loss by position in the context: does the model use what came before, and how much of it?

In windows side by side, the target at position p is predicted from p + 1 tokens. If the loss
falls up to position 60 and no further, tokens more than 60 back are of no use to the model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from minitx.evaluation.arrays import Float32Array, GroupedSums, IntArray

NOTABLE = 0.01
"""Part of the loss by which more context must lower it to count as used."""


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


class PositionLosses:
    """Sums losses by position as they stream by."""

    def __init__(self, context_length: int) -> None:
        self._sums = GroupedSums(context_length, 2)

    def add(self, position: IntArray, losses: Float32Array) -> None:
        """Add losses of the targets at these positions of their windows, from 0."""
        nats = losses.astype(np.float64)
        self._sums.add(position, nats, nats * nats)

    def result(self) -> ContextUse:
        """Loss by tokens seen, so far."""
        n = len(self._sums.counts)
        buckets, first = [], 0
        while first < n:
            last = min(n, 2 * first or 1)
            # What is left over joins its neighbour, rather than being a bucket of a few.
            if n - last < (last - first) // 2:
                last = n
            if self._sums.counts[first:last].sum():
                buckets.append(self._bucket(first, last))
            first = last
        return ContextUse(tuple(buckets), self._used_length(buckets), n)

    def _bucket(self, first: int, last: int) -> PositionBucket:
        tokens = float(self._sums.counts[first:last].sum())
        mean, square = (self._sums.sums[:, first:last].sum(1) / tokens).tolist()
        variance = max(0.0, square - mean * mean)
        return PositionBucket(first + 1, last, int(tokens), mean, math.sqrt(variance / tokens))

    def _used_length(self, buckets: list[PositionBucket]) -> int:
        # The first bucket than which neither any later one nor all later ones are clearly better.
        for bucket in buckets[:-1]:
            later = [other for other in buckets if other.first > bucket.last]
            rest = self._bucket(bucket.last, len(self._sums.counts))
            if not any(_is_better(other, bucket) for other in (*later, rest)):
                return bucket.last
        return len(self._sums.counts)


def _is_better(later: PositionBucket, bucket: PositionBucket) -> bool:
    gain = bucket.loss - later.loss
    chance = 2 * math.hypot(bucket.standard_error, later.standard_error)
    return gain > chance and gain > NOTABLE * bucket.loss
