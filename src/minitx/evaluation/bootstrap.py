"""How sure a mean over blocks is: the percentile bootstrap (Efron 1979).

The blocks are drawn again and again with replacement, and the ratio of sums is taken each time;
the middle 95 % of these ratios is the interval. It tells how the figure would move on other text
of the same kind, not on text of another kind.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

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
    """95 % interval of sum(totals) / sum(weights).

    Args:
        totals: `(blocks,)` for example nats.
        weights: `(blocks,)` for example tokens.
        seed: of the draws.

    Returns:
        None with fewer than `FEWEST_BLOCKS` blocks.
    """
    if len(totals) < FEWEST_BLOCKS:
        return None
    counts = resample_counts(len(totals), seed)
    ratios = (counts @ totals) / (counts @ weights)
    low, high = np.quantile(ratios, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high))


def resample_counts(n_blocks: int, seed: int) -> FloatArray:
    """How often each block is drawn in each resample, `(RESAMPLES, n_blocks)`."""
    random = np.random.default_rng(seed)
    even = np.full(n_blocks, 1 / n_blocks)
    return random.multinomial(n_blocks, even, size=RESAMPLES).astype(np.float64)
