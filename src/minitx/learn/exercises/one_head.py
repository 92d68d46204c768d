"""Attention 3: one whole head

What a position gets is the sum of the values of all positions that it may see, each times its
weight. Query and key decide who is listened to; the value is what is said.

    attention(Q, K, V) = softmax(masked(Q K^T / sqrt(W))) V

`masked` sets the scores that the mask hides to -inf. Your two earlier exercises do most of it:
scores, mask, weights. The sum is left. The result has a row for each query, as wide as a value.
This is the only place in a transformer where a position learns anything of another.

Paper: Vaswani et al. 2017, section 3.2.1, equation 1.
In minitx: model/transformer.py: eager_attention
"""

from __future__ import annotations

from torch import Tensor

from minitx.learn.exercises.causal_weights import attention_weights, causal_mask
from minitx.learn.exercises.scaled_scores import scaled_scores


def attention(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Causal attention: `(..., T, W)`, and twice `(..., S, W)`, to `(..., T, W)`."""
    mask = causal_mask(queries.size(-2), keys.size(-2))
    weights = attention_weights(scaled_scores(queries, keys), mask)
    return weights @ values


# ---- what the judge reads ------------------------------------------------------------------------

from torch.nn import functional as F

from minitx.learn.seeded import normal
from minitx.learn.trial import Calls, Code, Trial

HINTS = (
    "The mask needs two sizes: how many queries, how many keys. Both are the axis before the last.",
    "weights @ values: a row of weights times the matrix of values is the weighted sum.",
)
SLIPS = """
The mask is missing: each position sees what comes after it.
    , mask) -> , mask | True)
The mask is shifted by one: position i sees position i + 1, which is what it should foretell.
    causal_mask(queries.size(-2), keys.size(-2))
    -> causal_mask(queries.size(-2), keys.size(-2) + 1)[:, :-1]
Values and keys are swapped: keys are what is compared, values are what is summed.
    scaled_scores(queries, keys) -> scaled_scores(queries, values)
    weights @ values -> weights @ keys
It sums the keys: what a position gets is made of values.
    weights @ values -> weights @ keys
The scale is missing: divide the scores by the root of the width.
    scaled_scores(queries, keys) -> queries @ keys.transpose(-2, -1)
The weights are transposed: row i holds what position i looks at.
    weights @ values -> weights.transpose(-2, -1) @ values
Queries and keys are swapped: the query is the one who asks.
    scaled_scores(queries, keys) -> scaled_scores(keys, queries)
The softmax is over the wrong axis: each query's weights sum to 1.
    attention_weights(scaled_scores(queries, keys), mask)
    -> scaled_scores(queries, keys).masked_fill(~mask, -float("inf")).softmax(-2)
The mask comes after the softmax: rows sum to less than 1, and hidden scores have had their say.
    attention_weights(scaled_scores(queries, keys), mask)
    -> scaled_scores(queries, keys).softmax(-1) * mask
"""
REFERENCE = Code(
    attention=lambda queries, keys, values: F.scaled_dot_product_attention(
        queries, keys, values, is_causal=True
    )
)


def trials(answer: Code) -> Calls:
    """One head, then a batch with heads."""
    for before, t, w in (((), 5, 5), ((2, 3), 4, 6)):
        inputs = tuple(normal(*before, t, w, seed=seed) for seed in range(3))
        about = f"attention(queries, keys, values), each {tuple(inputs[0].shape)}"
        yield Trial(about, answer.attention, inputs, is_causal=True)
