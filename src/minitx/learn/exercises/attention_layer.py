"""The attention layer of a modern model

Your heads, with what has been added since 2017: queries and keys are normalized in each head, so
that scores can't grow without bound, and turned by their positions. Values are left alone. One
matrix makes all three, queries, keys, values in this order, D columns each; an output matrix mixes
the heads.

    Q, K, V = split(qkv(x))
    Q = rotate(query_norm(Q)),   K = rotate(key_norm(K))        norm first, then the rotation
    output( merge( attention(Q, K, V) ) )

The norms work on the width of one head, W = D / H. The angles come in from outside: all layers
share them.

Paper: Vaswani et al. 2017, section 3.2; Henry et al. 2020 (query-key norm); Su et al. 2021.
In minitx: model/transformer.py: Attention
"""

from __future__ import annotations

from torch import Tensor, nn

from minitx.learn.exercises.one_head import attention
from minitx.learn.exercises.rms_norm import RMSNorm
from minitx.learn.exercises.rotary_positions import rotate
from minitx.learn.exercises.several_heads import merge_heads, split_heads


class Attention(nn.Module):
    """Several heads with normalized, rotated queries and keys."""

    def __init__(self, d_model: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.qkv = nn.Linear(d_model, 3 * d_model, bias=False)
        self.output = nn.Linear(d_model, d_model, bias=False)
        self.query_norm = RMSNorm(d_model // n_heads)
        self.key_norm = RMSNorm(d_model // n_heads)

    def forward(self, x: Tensor, angles: Tensor) -> Tensor:
        """x `(B, T, D)` and angles `(T, W / 2)` to `(B, T, D)`."""
        queries, keys, values = (
            split_heads(part, self.n_heads) for part in self.qkv(x).chunk(3, dim=-1)
        )
        queries = rotate(self.query_norm(queries), angles)
        keys = rotate(self.key_norm(keys), angles)
        mixed: Tensor = self.output(merge_heads(attention(queries, keys, values)))
        return mixed


# ---- what the judge reads ------------------------------------------------------------------------

import torch

from minitx.config import ModelConfig
from minitx.learn.seeded import normal, with_weights
from minitx.learn.trial import Calls, Code, Trial
from minitx.model import transformer

HINTS = (
    "self.qkv(x).chunk(3, dim=-1) gives the three parts. Split each into heads; norm and rotation "
    "come then, when the last axis is the width of a head.",
    "queries = rotate(self.query_norm(queries), angles), the same for keys with self.key_norm; "
    "values go to attention as they are.",
)
SLIPS = """
The values are rotated, too: they are what is said, wherever it was said.
    attention(queries, keys, values) -> attention(queries, keys, rotate(values, angles))
Nothing is rotated: the layer can't tell positions apart.
    rotate(self.query_norm(queries), angles) -> self.query_norm(queries)
    rotate(self.key_norm(keys), angles) -> self.key_norm(keys)
Only the queries are rotated: what counts is the difference to a key that is rotated, too.
    rotate(self.key_norm(keys), angles) -> self.key_norm(keys)
The norms are missing: queries and keys are normalized before they are rotated.
    rotate(self.query_norm(queries), angles) -> rotate(queries, angles)
    rotate(self.key_norm(keys), angles) -> rotate(keys, angles)
It rotates first and normalizes then: the gain would stretch turned points. Norm first.
    rotate(self.query_norm(queries), angles) -> self.query_norm(rotate(queries, angles))
    rotate(self.key_norm(keys), angles) -> self.key_norm(rotate(keys, angles))
The norms of queries and keys are swapped: each has gains of its own.
    self.query_norm(queries) -> self.key_norm(queries)
    self.key_norm(keys) -> self.query_norm(keys)
The output matrix is missing: the heads' results stand side by side unmixed.
    self.output(merge_heads -> (merge_heads
Keys and values are swapped: the matrix gives queries, keys, values, in this order.
    queries, keys, values = ( -> queries, values, keys = (
The matrix is read head by head, queries, keys and values of each: here all queries come first, D
columns, then all keys, then all values.
    split_heads(part, self.n_heads) for part in self.qkv(x).chunk(3, dim=-1)
    -> part.mT for part in self.qkv(x).unflatten(-1, (self.n_heads, 3, -1)).permute(3, 0, 2, 4, 1)
"""


def small_config(
    d_model: int, n_heads: int, d_ff: int = 12, vocab_size: int = 11, n_layers: int = 1
) -> ModelConfig:
    """A shape for minitx's own layers, as the exercises build them."""
    return ModelConfig(
        vocab_size=vocab_size, context_length=32, n_layers=n_layers, n_heads=n_heads,
        n_kv_heads=n_heads, d_model=d_model, d_ff=d_ff, head_dim=d_model // n_heads,
    )  # fmt: skip


def shared_pass(angles: Tensor) -> transformer.Pass:
    """What minitx's layers share, for angles `(T, W / 2)`."""
    table = torch.cat((angles, angles), dim=-1)[:, None]
    rotary = table.cos(), table.sin()
    return transformer.Pass(torch.arange(len(angles)), is_causal=True, rotary=rotary)


class _Ours(transformer.Attention):
    def __init__(self, d_model: int, n_heads: int) -> None:
        super().__init__(small_config(d_model, n_heads), layer=0)

    def forward(self, x: Tensor, angles: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x, shared_pass(angles))


REFERENCE = Code(Attention=_Ours)


def trials(answer: Code) -> Calls:
    """Two shapes, at positions that do not begin at 0."""
    for d_model, n_heads in ((8, 2), (12, 3)):
        layer = with_weights(answer.Attention(d_model, n_heads))
        angles = torch.outer(torch.arange(3, 8), torch.logspace(0, -1, d_model // n_heads // 2))
        about = f"Attention({d_model}, {n_heads})(x, angles), x (2, 5, {d_model})"
        yield Trial(about, layer, (normal(2, 5, d_model), angles), is_causal=True)
