"""Attention 1: how well does a query fit a key?

Each position asks with a query and offers a key, vectors of width W. How well they fit is their dot
product: a score for every pair of positions.

    scores = Q K^T / sqrt(W)            scores[i, j]: position i asks, position j is asked

Why the root? A sum of W products of unrelated numbers of size 1 has a standard deviation of
sqrt(W). Undivided, the softmax that follows would begin all but decided, and let no gradient pass.

The last two axes are position and width; whatever stands before them (batch, head) goes along.

Paper: Vaswani et al. 2017, section 3.2.1, equation 1.
In minitx: model/transformer.py: eager_attention
"""

from __future__ import annotations

import math

from torch import Tensor


def scaled_scores(queries: Tensor, keys: Tensor) -> Tensor:
    """Queries `(..., T, W)` and keys `(..., S, W)` to scores `(..., T, S)`."""
    return queries @ keys.transpose(-2, -1) / math.sqrt(queries.size(-1))


# ---- what the judge reads ------------------------------------------------------------------------

import torch

from minitx.learn.seeded import normal
from minitx.learn.trial import Calls, Code, Trial

HINTS = (
    "The product of two matrices sums over the width if the keys are transposed: their last two "
    "axes change places.",
    "queries @ keys.transpose(-2, -1), divided by math.sqrt of the last size of the queries.",
)
SLIPS = """
The scale is missing: divide by the root of the width.
     / math.sqrt(queries.size(-1)) ->
The scale is the width, and should be its root: a sum of W products spreads as sqrt(W).
    math.sqrt(queries.size(-1)) -> queries.size(-1)
It multiplies by the scale, and should divide.
    / math.sqrt -> * math.sqrt
The scale is the root of the number of tokens, and should be that of the width: the last axis.
    math.sqrt(queries.size(-1)) -> math.sqrt(keys.size(-2))
Queries and keys have changed places: row i belongs to the one who asks.
    queries @ keys.transpose(-2, -1) -> keys @ queries.transpose(-2, -1)
The width is read from axis 1, and is the last axis, -1: with heads in front, axis 1 is the heads.
    math.sqrt(queries.size(-1)) -> math.sqrt(queries.size(1))
"""


def _scores(queries: Tensor, keys: Tensor) -> Tensor:
    products: Tensor = torch.einsum("...tw,...sw->...ts", queries.double(), keys.double())
    return products.mul(queries.size(-1) ** -0.5).to(queries.dtype)


REFERENCE = Code(scaled_scores=_scores)


def trials(answer: Code) -> Calls:
    """One head; as many keys as queries or more; a batch with heads."""
    for before, t, s, w in (((), 4, 4, 9), ((), 2, 5, 3), ((2, 3), 4, 4, 6)):
        queries, keys = normal(*before, t, w), normal(*before, s, w, seed=1)
        about = f"scaled_scores, queries {tuple(queries.shape)}, keys {tuple(keys.shape)}"
        yield Trial(about, answer.scaled_scores, (queries, keys))
