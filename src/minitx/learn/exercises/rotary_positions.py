"""Rotary positions

Attention sees a set of vectors: without help, "dog bites man" and "man bites dog" are one. Rotary
positions turn each query and key by an angle that grows with its position. The product of two
turned vectors depends on the difference of their angles alone, so on how far apart they are.

A vector of width W is read as W / 2 points in the plane; elements i and i + W/2 are one point (a,
b). Point i turns by theta^(-2i / W) for each position: the first by one radian, later ones ever
slower. theta is a large number, mostly 10,000.

    angle[t, i] = t * theta^(-2i / W)
    (a, b)  ->  (a cos - b sin,  b cos + a sin)

Queries and keys are turned, values are not: they are what is said, wherever it was said.

Paper: Su et al. 2021 (RoFormer), section 3.2.2 and equation 34.
In minitx: model/transformer.py: rotary_table
"""

from __future__ import annotations

import torch
from torch import Tensor


def rotary_angles(positions: Tensor, width: int, theta: float) -> Tensor:
    """Positions `(T,)` to angles `(T, W / 2)`, in radians."""
    exponents = torch.arange(0, width, 2) / width
    return positions[:, None] * theta**-exponents


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Turn each point of `(..., T, W)` by its angle, `(T, W / 2)`."""
    a, b = x.chunk(2, dim=-1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


# ---- what the judge reads ------------------------------------------------------------------------

from minitx.learn.seeded import normal
from minitx.learn.trial import Calls, Code, Trial

HINTS = (
    "torch.arange(0, W, 2) is 2i for each point. positions[:, None] makes a column, so that "
    "column times row is a table.",
    "x.chunk(2, dim=-1) gives all a and all b. Compute both new halves, and torch.cat them along "
    "the last axis.",
)
SLIPS = """
The points are made of neighbours, elements 2i and 2i + 1, as in GPT-J; here they are i and i + W/2,
as in Llama.
    x.chunk(2, dim=-1) -> x[..., ::2], x[..., 1::2]
    torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)
    -> torch.stack((a * cos - b * sin, b * cos + a * sin), dim=-1).flatten(-2)
It turns the other way: the signs of the two sines are exchanged.
    a * cos - b * sin, b * cos + a * sin -> a * cos + b * sin, b * cos - a * sin
Sine and cosine are swapped: at position 0 nothing may turn.
    cos, sin = angles.cos(), angles.sin() -> sin, cos = angles.cos(), angles.sin()
Both sines have the same sign, so lengths change: a rotation has one minus.
    a * cos - b * sin -> a * cos + b * sin
The exponent lacks its 2: it is 2i / W, so that the slowest point hardly turns.
    torch.arange(0, width, 2) / width -> torch.arange(width // 2) / width
The exponent's sign is wrong: later points turn more slowly, not faster.
    theta**-exponents -> theta**exponents
The positions are one too large: the first is 0.
    positions[:, None] -> (positions[:, None] + 1)
The angles stand twice: one for each point, W / 2 of them.
    exponents = torch.arange(0, width, 2) / width
    -> exponents = (torch.arange(0, width, 2) / width).repeat(2)
The exponent has its 2 twice: torch.arange(0, W, 2) is 2i already.
    torch.arange(0, width, 2) / width -> 2 * torch.arange(0, width, 2) / width
The turned points are put back as neighbours: both elements stay where they were, i and i + W/2.
    torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)
    -> torch.stack((a * cos - b * sin, b * cos + a * sin), dim=-1).flatten(-2)
"""


def _angles(positions: Tensor, width: int, theta: float) -> Tensor:
    rows = [[t * theta ** (-2 * i / width) for i in range(width // 2)] for t in positions.tolist()]
    return torch.tensor(rows)


def _turned(x: Tensor, angles: Tensor) -> Tensor:
    # Points of the plane as complex numbers, in double precision.
    points = torch.complex(*x.double().chunk(2, dim=-1))
    turned = points * torch.polar(torch.ones_like(angles).double(), angles.double())
    return torch.cat((turned.real, turned.imag), dim=-1).float()


REFERENCE = Code(rotary_angles=_angles, rotate=_turned)


def trials(answer: Code) -> Calls:
    """Positions from 0 and from further on; one head and several."""
    for start, width, theta in ((0, 8, 10_000.0), (3, 6, 100.0)):
        positions = torch.arange(start, start + 4)
        about = f"rotary_angles(positions {start} to {start + 3}, {width}, {theta:g})"
        yield Trial(about, answer.rotary_angles, (positions, width, theta))
    for shape in ((4, 8), (2, 3, 4, 8)):
        angles = _angles(torch.arange(4), 8, 100.0)
        yield Trial(f"rotate(x, angles), x {shape}", answer.rotate, (normal(*shape), angles))
