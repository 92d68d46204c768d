"""Several heads

One softmax gives one mean: a position can look at one kind of thing. So the width is cut into H
heads of W = D / H, each attends by itself, and their results stand side by side again. An output
matrix then mixes them. All queries, keys and values come from one matrix of three parts:

    x (B, T, D) -> qkv (B, T, 3D) -> Q, K, V in this order, (B, T, D) each
    split_heads  (B, T, H*W) -> (B, H, T, W)      head h has columns h*W to (h+1)*W
    attention in every head, merge_heads back, output matrix

For the product Q K^T the positions must stand before the width: that is what the transposition in
split_heads is for. A view alone would cut positions into pieces.

Paper: Vaswani et al. 2017, section 3.2.2.
In minitx: model/transformer.py: Attention.forward
"""

from __future__ import annotations

from torch import Tensor, nn

from minitx.learn.exercises.one_head import attention


def split_heads(x: Tensor, n_heads: int) -> Tensor:
    """`(B, T, H * W)` to `(B, H, T, W)`."""
    batch, length, _ = x.shape
    return x.view(batch, length, n_heads, -1).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """`(B, H, T, W)` to `(B, T, H * W)`."""
    return x.transpose(1, 2).flatten(2)


class MultiHeadAttention(nn.Module):
    """Queries, keys and values from one matrix; attend in each head; project back."""

    def __init__(self, d_model: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.qkv = nn.Linear(d_model, 3 * d_model, bias=False)
        self.output = nn.Linear(d_model, d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, T, D)` to `(B, T, D)`."""
        queries, keys, values = (
            split_heads(part, self.n_heads) for part in self.qkv(x).chunk(3, dim=-1)
        )
        mixed: Tensor = self.output(merge_heads(attention(queries, keys, values)))
        return mixed


# ---- what the judge reads ------------------------------------------------------------------------

import torch
from torch.nn import functional as F

from minitx.learn.seeded import normal, with_weights
from minitx.learn.trial import Calls, Code, Trial

HINTS = (
    "split_heads: view as (B, T, H, W), then exchange axes 1 and 2. merge_heads is the way back; "
    "flatten(2) joins the last two axes.",
    "In forward, self.qkv(x).chunk(3, dim=-1) gives the three parts. Split each, call attention, "
    "merge, and end with self.output.",
)
SLIPS = {
    "The heads are cut without transposing, so that each holds pieces of positions: view as "
    "(B, T, H, W) first, then exchange axes 1 and 2.": (
        "x.view(batch, length, n_heads, -1).transpose(1, 2)", "x.reshape(batch, n_heads, length, -1)"
    ),
    "The heads are interleaved: head h has the columns from h*W on, not every H-th one.": (
        "x.view(batch, length, n_heads, -1).transpose(1, 2)",
        "x.view(batch, length, -1, n_heads).permute(0, 3, 1, 2)",
    ),
    "The heads are merged without transposing back: positions get numbers of others.": (
        "x.transpose(1, 2).flatten(2)", "x.reshape(x.size(0), x.size(2), -1)"
    ),
    "The output matrix is missing: the heads' results stand side by side unmixed.": (
        "self.output(merge_heads(attention(queries, keys, values)))",
        "merge_heads(attention(queries, keys, values))",
    ),
    "Keys and values are swapped: the matrix gives queries, keys, values, in this order.": (
        "queries, keys, values = (", "queries, values, keys = ("
    ),
    "Queries and keys are swapped: the matrix gives queries, keys, values, in this order.": (
        "queries, keys, values = (", "keys, queries, values = ("
    ),
    "It is one wide head: split before attention, merge after it.": (
        "split_heads(part, self.n_heads) for", "split_heads(part, 1) for"
    ),
    "It adds x: the residual stream is the block's affair, in a later exercise.": (
        "self.output(merge_heads(", "x + self.output(merge_heads("
    ),
}  # fmt: skip


class _Torchs(nn.Module):
    """PyTorch's own attention, with the same parameters."""

    def __init__(self, d_model: int, n_heads: int) -> None:
        super().__init__()
        self.sizes = d_model, n_heads
        self.qkv = nn.Linear(d_model, 3 * d_model, bias=False)
        self.output = nn.Linear(d_model, d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(0, 1)
        hidden = torch.ones(len(x), len(x)).triu(1).bool()
        mixed, _ = F.multi_head_attention_forward(
            x, x, x, *self.sizes, self.qkv.weight, None, None, None, False, 0.0,
            self.output.weight, None, attn_mask=hidden, need_weights=False,
        )  # fmt: skip
        return mixed.transpose(0, 1)


REFERENCE = Code(
    split_heads=lambda x, n_heads: torch.stack(x.chunk(n_heads, dim=-1), dim=1),
    merge_heads=lambda x: torch.cat(x.unbind(1), dim=-1),
    MultiHeadAttention=_Torchs,
)


def trials(answer: Code) -> Calls:
    """Splitting and merging by themselves, then the layer."""
    yield Trial("split_heads(x, 3), x (2, 4, 12)", answer.split_heads, (normal(2, 4, 12), 3))
    yield Trial("merge_heads(x), x (2, 3, 5, 4)", answer.merge_heads, (normal(2, 3, 5, 4),))
    layer = with_weights(answer.MultiHeadAttention(8, 2))
    about = "MultiHeadAttention(8, 2)(x), x (2, 5, 8)"
    yield Trial(about, layer, (normal(2, 5, 8),), is_causal=True)
