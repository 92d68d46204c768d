"""Looking inside a model: a record of one forward pass, and a mode in which nothing is random."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from torch import Tensor, nn


@dataclass
class Trace:
    """Give an empty one to a model's forward pass, and it is filled layer by layer.

    Attributes:
        residual: the residual stream `(batch, seq, d_model)`: before block 0, then after each
            block; n_layers + 1 entries.
        queries: `(batch, n_heads, seq, head_dim)` of each layer, after rotation.
        keys: `(batch, n_heads, seq, head_dim)` of each layer, after rotation; a head of a group
            shows the group's.
        values: `(batch, n_heads, seq, head_dim)` of each layer.
        attention: weights `(batch, n_heads, seq, seq)` of each layer; row i is what position i
            looks at.
        head_outputs: `(batch, n_heads, seq, head_dim)` of each layer: the weighted sum of values.
    """

    residual: list[Tensor] = field(default_factory=list)
    queries: list[Tensor] = field(default_factory=list)
    keys: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)
    attention: list[Tensor] = field(default_factory=list)
    head_outputs: list[Tensor] = field(default_factory=list)

    def add(
        self, queries: Tensor, keys: Tensor, values: Tensor, attention: Tensor, heads: Tensor
    ) -> None:
        """Note what happened in the attention of one more layer."""
        self.queries.append(queries)
        self.keys.append(keys)
        self.values.append(values)
        self.attention.append(attention)
        self.head_outputs.append(heads)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Switch dropout off for a while; the mode is put back afterwards."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
