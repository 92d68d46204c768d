"""Random draws by number: the draw of a sample at a position is the same in any batch.

A generator with a state would give a sample other numbers when another sample is drawn beside it.
Here the number is a hash of seed, sample and position.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_MASK = 2**64 - 1
_GOLDEN = 0x9E3779B97F4A7C15


def source(seed: int, sample: int) -> int:
    """What all numbers of a continuation follow from."""
    return _mix(_mix(seed + _GOLDEN) ^ (sample * _GOLDEN + 1) & _MASK)


def number(origin: int, position: int) -> float:
    """A number from [0, 1), with 53 random bits, for a new token of the `source` of a text."""
    return (_mix(origin ^ (position * _GOLDEN + 2) & _MASK) >> 11) / 2**53


def draw(logits: Tensor, numbers: Sequence[float]) -> list[int]:
    """Draw a token in each row.

    The distribution is laid out along a line in the order of ids, in double precision, and the
    row's number points at a token.

    Args:
        logits: `(rows, vocab_size)`; minus infinity rules a token out.
        numbers: one from [0, 1) for each row.

    Returns:
        Ids; `vocab_size` for a row with NaN or infinity, or in which every token is ruled out.
    """
    # How long the line is does not matter: numbers are taken as parts of it.
    wide = logits.double()
    cumulative = (wide - wide.amax(dim=-1, keepdim=True)).exp_().cumsum(dim=-1)
    parts = torch.tensor(numbers, dtype=torch.float64, device=logits.device)[:, None]
    points = parts * cumulative[:, -1:]
    chosen: list[int] = torch.searchsorted(cumulative, points, right=True)[:, 0].tolist()
    return chosen


def _mix(z: int) -> int:
    # The finalizer of SplitMix64 (Steele et al. 2014): every input bit moves every output bit.
    z &= _MASK
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & _MASK
    return z ^ (z >> 31)
