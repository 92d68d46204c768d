"""Perplexity: the loss as a number of equally likely choices."""

from __future__ import annotations

import math


def perplexity(loss: float) -> float:
    """Return e to the loss (nats per token); infinity where that is too large for a float."""
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf
