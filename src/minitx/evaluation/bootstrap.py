"""How sure a mean over blocks is: the percentile bootstrap (Efron 1979).

The blocks are drawn again and again with replacement, and the ratio of sums is taken each time;
the middle 95 % of these ratios is the interval. It tells how the figure would move on other text
of the same kind, not on text of another kind.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from minitx.evaluation.arrays import FloatArray

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
