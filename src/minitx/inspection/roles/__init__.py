"""Jobs that an attention head may have, told from where it looks: each registers itself here.

A score is a share between 0 and 1, averaged over queries; its control is what the score would be
if the head did *not* have the role.

| role            | score: mean over queries of              | on       | control         |
| --------------- | ---------------------------------------- | -------- | --------------- |
| induction       | weight on the token after its earlier    | repeated | same offset, no |
|                 | occurrence                               | tokens   | repetition      |
| duplicate token | weight on its earlier occurrence         | repeated | same offset, no |
|                 |                                          | tokens   | repetition      |
| previous token  | weight on the token before it            | text     | even attention  |
| current token   | weight on itself                         | text     | even attention  |
| first token     | weight on position 0 (a sink)            | text     | even attention  |
| local           | weight on the last 8 tokens, itself too  | text     | even attention  |
| positional      | share of the pattern's variation that    | random   | the same, rows  |
|                 | position alone predicts                  | tokens   | shuffled        |
| uniform         | entropy as a share of the largest        | text     | random weights  |

Sources: previous-token and induction heads, Elhage et al. 2021 and Olsson et al. 2022;
duplicate-token heads, Wang et al. 2022, section 3; attention sinks, Xiao et al. 2023; positional
heads, Voita et al. 2019, section 4.1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from minitx.evaluation.arrays import Float32Array, IdArray, IntArray
from minitx.registry import Registry

Scores = tuple[Float32Array, Float32Array]
"""Score and control of the heads of a layer, each (n_heads,)."""


@dataclass(frozen=True, eq=False)
class LayerPatterns:
    """What the heads of one layer looked at, on each kind of text; None where it was not read.

    Attributes:
        repeated: (batch, n_heads, 2 * period, 2 * period) weights on random tokens, twice.
        control: weights on random tokens that don't, of the same shape.
        text: (batch, n_heads, seq, seq) weights on windows of a real text.
    """

    repeated: Float32Array | None = None
    control: Float32Array | None = None
    text: Float32Array | None = None


Measure = TypeVar("Measure", bound=Callable[[LayerPatterns], Scores | None])


@dataclass
class Role:
    """A job that a head may have: decorates the function that measures it.

    Attributes:
        rank: place in tables, and which head is shown first: the lowest rank is the most telling.
        is_specific: it names one place to look, rather than a region or the lack of any.
        short_name, column: the name where there is little room, and above a column of scores.
        scores: gives those of each head; None if the texts for it are missing or too short.
    """

    name: str
    rank: int
    is_specific: bool
    short_name: str
    column: str
    scores: Callable[[LayerPatterns], Scores | None] = field(init=False)

    def __call__(self, scores: Measure) -> Measure:
        """Register the function."""
        self.scores = scores
        HEAD_ROLES.register(self.name)(self)
        return scores


HEAD_ROLES: Registry[Role] = Registry("head role", "minitx.inspection.roles")


def all_roles() -> dict[str, Role]:
    """The roles by name, the most telling first."""
    roles = {name: HEAD_ROLES.get(name) for name in HEAD_ROLES.names()}
    return dict(sorted(roles.items(), key=lambda entry: entry[1].rank))


def mean_weight(weights: Float32Array, queries: IdArray, keys: IdArray) -> Float32Array:
    """Mean over batch and queries of the weight on one key for each query, (n_heads,)."""
    picked = weights[:, :, queries, keys]
    return np.asarray(picked.mean(axis=(0, 2), dtype=np.float64), dtype=np.float32)


def late_queries(weights: Float32Array) -> IntArray:
    """The second half of the positions: near the start of a text every head is local."""
    seq = weights.shape[2]
    return np.arange(seq // 2, seq)
