"""How sure a mean over a text is, and whether one model is better than another.

A text is taken in blocks of about equal bytes. Neighbouring tokens are surprising together, so
that single tokens are no independent draws; long stretches nearly are. Blocks are cut by bytes, so
that models with different tokenizers have the same ones.

The interval is that of the percentile bootstrap (Efron 1979): the blocks are drawn again and again
with replacement, the ratio of sums is taken each time, and the middle 95 % of these ratios are the
interval. It tells how the figure would move on other text of the same kind, not of another kind.

Two models are compared by a paired test: both read the same blocks, so a hard passage is hard for
both and drops out of the difference. The p-value is that of a sign-flip permutation test: if there
were no difference, each block's difference could as well have the other sign.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from minitx.corpus.encoded_file import release
from minitx.evaluation.arrays import (
    Float32Array,
    FloatArray,
    GroupedSums,
    IdArray,
    IntArray,
    bits_per,
)

_AT_ONCE = 1 << 20

MOST_BLOCKS = 100
SMALLEST_BLOCK = 128
"""Bytes below which a block would depend too much on its neighbours."""

FLIPS = 10_000
SIGNIFICANT = 0.05

FEWEST_BLOCKS = 8
"""With fewer, the interval would be far too narrow."""

RESAMPLES = 4_000
LEVEL = 0.95


@dataclass(frozen=True, eq=False)
class Blocks:
    """What was summed in each block; blocks without a scored token are left out.

    All are `(blocks,)`; `bytes` are those that the scored tokens stand for, and `number` is the
    place of each block in the text.
    """

    nats: FloatArray
    tokens: FloatArray
    bytes: FloatArray
    number: IntArray


class BlockSums:
    """Sums losses by block as they stream by.

    The whole text has `n_bytes`, and each token id stands for so many as `sizes` says.
    """

    def __init__(self, n_bytes: int, sizes: IntArray) -> None:
        self._sizes = sizes
        self.n_blocks = max(1, min(MOST_BLOCKS, n_bytes // SMALLEST_BLOCK))
        self._block_bytes = max(1.0, n_bytes / self.n_blocks)
        self._blocks = GroupedSums(self.n_blocks, 2)
        self._read_ids = 0
        self._read_bytes = 0

    def add(self, ids: IdArray, index: IntArray, losses: Float32Array) -> None:
        """Add losses of the targets at `index` of `ids`; each call is further on in the text."""
        # A part of a text may be scored in places far apart, with much to count in between.
        while self._read_ids <= index[-1]:
            end = min(self._read_ids + _AT_ONCE, int(index[-1]) + 1)
            first, last = np.searchsorted(index, [self._read_ids, end])
            self._add_up_to(end, ids, index[first:last], losses[first:last])
            release(ids)

    def _add_up_to(self, end: int, ids: IdArray, index: IntArray, losses: Float32Array) -> None:
        sizes = self._sizes[ids[self._read_ids : end]]
        ends = self._read_bytes + np.cumsum(sizes)
        here = index - self._read_ids
        starts = ends[here] - sizes[here]
        block = np.minimum((starts / self._block_bytes).astype(np.int64), self.n_blocks - 1)
        self._blocks.add(block, losses, sizes[here])
        self._read_ids, self._read_bytes = end, int(ends[-1])

    def result(self) -> Blocks:
        """The sums so far."""
        number = np.flatnonzero(self._blocks.counts)
        nats, n_bytes = self._blocks.sums[:, number]
        return Blocks(nats, self._blocks.counts[number], n_bytes, number)


@dataclass(frozen=True)
class Interval:
    """Bounds within which 95 % of the resampled figures fall."""

    low: float
    high: float


def bootstrap_interval(totals: FloatArray, weights: FloatArray, seed: int = 0) -> Interval | None:
    """95 % interval of sum(totals) / sum(weights), such as nats and tokens, both `(blocks,)`.

    None with fewer than `FEWEST_BLOCKS` blocks.
    """
    if len(totals) < FEWEST_BLOCKS:
        return None
    # How often each block is drawn in each resample, (RESAMPLES, blocks).
    even = np.full(len(totals), 1 / len(totals))
    counts = np.random.default_rng(seed).multinomial(len(totals), even, size=RESAMPLES)
    ratios = (counts @ totals) / (counts @ weights)
    low, high = np.quantile(ratios, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high))


@dataclass(frozen=True)
class Comparison:
    """One model less another, in bits per byte; negative where the first is better.

    Attributes:
        interval, p_value: 95 %, by bootstrap over blocks; two-sided. None with too few blocks.
        n_blocks: that both were scored on.
    """

    difference: float
    interval: Interval | None
    p_value: float | None
    n_blocks: int

    @property
    def is_significant(self) -> bool:
        """Whether so large a difference would come by chance in less than 5 % of cases."""
        return self.p_value is not None and self.p_value < SIGNIFICANT


def compare(first: Blocks, second: Blocks, seed: int = 0) -> Comparison:
    """Test the difference of two models on the same text.

    Bytes of a block may differ by a token or so where tokenizers do; those of the first count.
    """
    _, mine, other = np.intersect1d(first.number, second.number, return_indices=True)
    difference = bits_per(1.0, 1) * (first.nats[mine] - second.nats[other])
    n_bytes = first.bytes[mine]
    mean = float(difference.sum() / n_bytes.sum())
    if len(mine) < FEWEST_BLOCKS:
        return Comparison(mean, None, None, len(mine))
    random = np.random.default_rng(seed)
    signs = random.integers(0, 2, (FLIPS, len(mine)), dtype=np.int8) * 2.0 - 1.0
    # The tolerance keeps a flip that changes nothing from counting as smaller by rounding.
    as_large = np.abs(signs @ difference) >= abs(difference.sum()) * (1 - 1e-12)
    p_value = (1 + int(as_large.sum())) / (1 + FLIPS)
    return Comparison(mean, bootstrap_interval(difference, n_bytes, seed), p_value, len(mine))
