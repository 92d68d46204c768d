"""Reading an attention map

The weights of a head are a square `(T, T)`: row i is what position i looks at, and sums to 1. Three
numbers tell most of what a head does:

    strongest key      for each query, the position with the most weight
    weight at distance d      the mean weight on the position d before the query, over all queries
                              that have one: a previous-token head has almost 1 at d = 1
    entropy            of each row, - sum of w log w, in nats: 0 if it looks at one token, ln(i + 1)
                       if at all alike. A weight of 0 adds 0, although its logarithm is -inf.

A large weight is not an explanation yet: what the value says, and how long it is, counts as well.

Paper: Clark et al. 2019, section 3; Jain and Wallace 2019 (what it does not explain).
In minitx: inspection/roles/looked_at.py: previous_token
"""

from __future__ import annotations

from torch import Tensor


def strongest_keys(weights: Tensor) -> Tensor:
    """Of each query of `(T, T)`, the position it looks at most: `(T,)` int64."""
    return weights.argmax(dim=-1)


def weight_at_distance(weights: Tensor, distance: int) -> float:
    """Mean weight on the position `distance` before the query, over queries that have one."""
    return weights.diagonal(-distance).mean().item()


def entropies(weights: Tensor) -> Tensor:
    """Of each row in nats: `(T, T)` to `(T,)`."""
    logs = weights.log().masked_fill(weights == 0, 0.0)
    return -(weights * logs).sum(dim=-1)


# ---- what the judge reads ------------------------------------------------------------------------

import math

from minitx.learn.seeded import normal
from minitx.learn.trial import Calls, Code, Trial

HINTS = (
    "argmax along the last axis. weights.diagonal(-d) are the weights d before the query: a "
    "diagonal below the main one.",
    "For the entropy, put 0 where the weight is 0 before you multiply: 0 * -inf is NaN.",
)
SLIPS = """
It reads columns: who looks most at each token. Rows are what a position looks at.
    argmax(dim=-1) -> argmax(dim=-2)
It gives the largest weight: its position is wanted.
    weights.argmax(dim=-1) -> weights.amax(dim=-1)
It looks at the token that it looks at least.
    weights.argmax( -> weights.argmin(
It takes the diagonal above: those are later positions, whose weight is 0.
    diagonal(-distance) -> diagonal(distance)
It divides by all positions: the first `distance` of them have nothing that far back.
    .mean().item() -> .sum().item() / len(weights)
The entropy's minus is missing: it is at least 0.
    return -(weights -> return (weights
The entropy is in bits: nats are wanted, the natural logarithm.
    weights.log() -> weights.log2()
A weight of 0 gives NaN, 0 * -inf: it adds 0.
    .masked_fill(weights == 0, 0.0) ->
The entropy is that of columns: rows sum to 1.
    .sum(dim=-1) -> .sum(dim=-2)
"""


def _strongest(weights: Tensor) -> Tensor:
    return weights.sort(dim=-1, descending=True).indices[:, 0]


def _at_distance(weights: Tensor, distance: int) -> float:
    rows = weights.tolist()
    at = [row[i - distance] for i, row in enumerate(rows) if i >= distance]
    return float(sum(at) / len(at))


def _entropies(weights: Tensor) -> Tensor:
    rows = weights.double().tolist()
    each = [-sum(w * math.log(w) for w in row if w > 0) for row in rows]
    return weights.new_tensor(each)


REFERENCE = Code(strongest_keys=_strongest, weight_at_distance=_at_distance, entropies=_entropies)


def trials(answer: Code) -> Calls:
    """A head that looks at random; causal, so half of its weights are 0."""
    hidden = normal(6, 6).new_ones(6, 6).triu(1).bool()
    weights = (2 * normal(6, 6)).masked_fill(hidden, -math.inf).softmax(-1)
    yield Trial("strongest_keys(weights), weights (6, 6)", answer.strongest_keys, (weights,))
    for distance in (0, 1, 3):
        about = f"weight_at_distance(weights, {distance}), weights (6, 6)"
        yield Trial(about, answer.weight_at_distance, (weights, distance))
    yield Trial("entropies(weights), weights (6, 6)", answer.entropies, (weights,))
