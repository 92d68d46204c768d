"""How sure a mean over blocks is, and whether one model is better than another.

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

from minitx.evaluation.arrays import FloatArray
from minitx.evaluation.bits import bits_per
from minitx.evaluation.blocks import Blocks

FLIPS = 10_000
SIGNIFICANT = 0.05

FEWEST_BLOCKS = 8
"""With fewer, the interval would be far too narrow."""

RESAMPLES = 4_000
LEVEL = 0.95


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
        difference: bits per byte of the first less that of the second.
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
