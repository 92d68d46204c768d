"""Attention 2: the mask and the softmax

In training, a model foretells the next token at every position of a text at once. That works only
if no position sees what comes after it. So scores of later positions become -inf before the
softmax: e^-inf is exactly 0, and the other weights still sum to 1.

    weights[i, j] = e^scores[i, j] / sum over visible j of e^scores[i, j]

Each row is one position that looks; its weights sum to 1. A large score needs care: in float32,
e^89 is infinite. torch's softmax subtracts the row's largest score from all of them first, which
leaves the weights as they are.

The mask is a square in training. While generating, the queries are only the last T of S positions,
and the mask is the bottom T rows of that square:

    causal_mask(2, 4)   1 1 1 0
                        1 1 1 1

Paper: Vaswani et al. 2017, section 3.2.3 (decoder).
In minitx: model/transformer.py: causal_mask
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def causal_mask(queries: int, keys: int) -> Tensor:
    """True where a query may look: `(queries, keys)` bool. The queries are the last positions."""
    return torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries)


def attention_weights(scores: Tensor, mask: Tensor) -> Tensor:
    """The softmax of each row of `(..., T, S)`, over what `mask` `(T, S)` lets it see."""
    masked = scores.masked_fill(~mask, -math.inf)
    return masked.softmax(dim=-1)


# ---- what the judge reads ------------------------------------------------------------------------

from minitx.learn.seeded import normal
from minitx.learn.trial import Calls, Code, Trial

HINTS = (
    "torch.ones(T, S).tril(k) keeps what lies on or below a diagonal; k moves it to the right. "
    "With as many queries as keys k is 0. With more keys, the first query may see more than one.",
    "k is keys - queries. scores.masked_fill(~mask, -math.inf) hides, .softmax(dim=-1) follows: "
    "each row sums to 1 over the keys.",
)
SLIPS = r"""
The mask is shifted by one: position i sees position i + 1, which is what it should foretell.
    .tril(keys - queries) -> .tril(keys - queries + 1)
The mask is shifted by one, so that no position sees itself: the first has nothing to look at.
    .tril(keys - queries) -> .tril(keys - queries - 1)
The mask is transposed: it shows the future and hides the past.
    .tril(keys - queries) -> .triu(keys - queries)
The mask is that of the first positions: with more keys than queries, the queries are the last ones.
    .tril(keys - queries) -> .tril()
The softmax is over the wrong axis: each row, the one that looks, sums to 1, over the keys.
    softmax(dim=-1) -> softmax(dim=-2)
The mask comes after the softmax, so rows sum to less than 1, and hidden scores have had their say
in the sum: put -inf in before.
    masked = scores.masked_fill(~mask, -math.inf)\n    return masked.softmax(dim=-1)
    -> return scores.softmax(dim=-1) * mask
Hidden scores become 0, and e^0 is 1: they need -inf.
    -math.inf -> 0.0
The mask is not used.
    scores.masked_fill(~mask, -math.inf) -> scores
It takes powers of the scores as they are, and e^89 is infinite: .softmax, or subtract each row's
largest score first.
    masked.softmax(dim=-1) -> masked.exp() / masked.exp().sum(dim=-1, keepdim=True)
"""


def _mask(queries: int, keys: int) -> Tensor:
    rows = [[j <= keys - queries + i for j in range(keys)] for i in range(queries)]
    return torch.tensor(rows)


def _weights(scores: Tensor, mask: Tensor) -> Tensor:
    # Row by row, over what is visible alone.
    weights = torch.zeros(scores.shape, dtype=torch.float64)
    for i, visible in enumerate(mask):
        powers = scores[..., i, visible].double().exp()
        weights[..., i, visible] = powers / powers.sum(-1, keepdim=True)
    return weights.to(scores.dtype)


REFERENCE = Code(causal_mask=_mask, attention_weights=_weights)


def trials(answer: Code) -> Calls:
    """Square masks and those of the last positions; the judge's own masks for the softmax, at last
    with scores whose powers overflow."""
    for queries, keys in ((4, 4), (2, 5), (1, 3)):
        yield Trial(f"causal_mask({queries}, {keys})", answer.causal_mask, (queries, keys))
    for shape, size in (((4, 4), 1), ((2, 3, 5, 5), 1), ((2, 5), 1), ((6, 6), 100)):
        about = f"attention_weights(scores, mask), scores {shape} of size {size}"
        mask = _mask(shape[-2], shape[-1])
        yield Trial(about, answer.attention_weights, (size * normal(*shape), mask))
