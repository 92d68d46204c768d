"""Random draws by number: the draw of a sample at a position is the same in any batch.

A generator with a state would give a sample other numbers when another sample is drawn beside it.
Here the number is a hash of seed, sample and position.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

_MASK = 2**64 - 1
_GOLDEN = 0x9E3779B97F4A7C15


def uniform(seed: int, sample: int, position: int) -> float:
    """A number from [0, 1), with 53 random bits.

    Args:
        seed: of the whole.
        sample: which continuation.
        position: which new token of it.
    """
    state = _mix(seed + _GOLDEN)
    state = _mix(state ^ (sample * _GOLDEN + 1) & _MASK)
    state = _mix(state ^ (position * _GOLDEN + 2) & _MASK)
    return (state >> 11) / 2**53


def draw(logits: Tensor, numbers: Sequence[float]) -> list[int]:
    """Draw a token in each row.

    The distribution is laid out along a line in the order of ids, in double precision, and the
    row's number points at a token.

    Args:
        logits: `(rows, vocab_size)`; minus infinity rules a token out.
        numbers: one from [0, 1) for each row.

    Returns:
        An id for each row.
    """
    # How long the line is does not matter: numbers are taken as parts of it.
    if logits.is_cpu:
        # One row at a time is the usual case, where NumPy's small operations take less time.
        lines = logits.numpy().astype(np.float64)
        lines -= lines.max(axis=1, keepdims=True)
        np.exp(lines, out=lines)
        return [
            int(line.searchsorted(number * line[-1], side="right"))
            for line, number in zip(lines.cumsum(axis=1), numbers, strict=True)
        ]
    wide = logits.double()
    cumulative = (wide - wide.amax(dim=-1, keepdim=True)).exp_().cumsum(dim=-1)
    points = torch.tensor(numbers, dtype=torch.float64, device=logits.device)[:, None]
    points = points * cumulative[:, -1:]
    chosen: list[int] = torch.searchsorted(cumulative, points, right=True)[:, 0].tolist()
    return chosen


def _mix(z: int) -> int:
    # The finalizer of SplitMix64 (Steele et al. 2014): every input bit moves every output bit.
    z &= _MASK
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & _MASK
    return z ^ (z >> 31)
