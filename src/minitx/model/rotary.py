"""Rotary position embeddings: a position is an angle (Su et al. 2021, RoFormer, section 3.2).

A head's vector is read as head_dim / 2 points in the plane, and each point is turned by an angle
proportional to the position. The product of a turned query and a turned key depends only on the
difference of their angles: on how far apart the two tokens are.
"""

from __future__ import annotations

import torch
from torch import Tensor


def rotary_table(
    head_dim: int, length: int, theta: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Cosine and sine of every angle.

    Args:
        head_dim: width of a head; even.
        length: number of positions.
        theta: base of the frequencies. Pair i turns by theta^(-2i / head_dim) a position: the
            first pair by one radian, later ones ever more slowly.
        dtype: of the tables; angles are computed in float32 or better.

    Returns:
        Two tensors `(length, head_dim)`. Element i and element i + head_dim / 2 make up a pair,
        so each angle stands there twice.
    """
    precise = torch.promote_types(dtype, torch.float32)
    exponents = torch.arange(0, head_dim, 2, dtype=precise) / head_dim
    frequencies = 1.0 / theta**exponents
    angles = torch.outer(torch.arange(length, dtype=precise), frequencies)
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Turn each pair by its angle: (a, b) to (a cos - b sin, b cos + a sin).

    Args:
        x: `(..., head_dim)`.
        cosine, sine: rows of the tables, of a shape that broadcasts to x.
    """
    first, second = x.chunk(2, dim=-1)
    return x * cosine + torch.cat((-second, first), dim=-1) * sine
