"""Several heads

One softmax gives one mean: a position can look at one kind of thing. So the width D is cut into H
heads of W = D / H, each attends by itself, and their results stand side by side again.

    split_heads  (B, T, H*W) -> (B, H, T, W)      head h has columns h*W to (h+1)*W
    attention in every head, by the code you have: the last two axes are positions and width
    merge_heads  (B, H, T, W) -> (B, T, H*W)

For the product Q K^T the positions must stand right before the width: that is what a transposition
in split_heads is for. A view alone would cut positions into pieces.

Paper: Vaswani et al. 2017, section 3.2.2.
In minitx: model/transformer.py: Attention
"""

from __future__ import annotations

from torch import Tensor


def split_heads(x: Tensor, n_heads: int) -> Tensor:
    """`(B, T, H * W)` to `(B, H, T, W)`."""
    batch, length, _ = x.shape
    return x.view(batch, length, n_heads, -1).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """`(B, H, T, W)` to `(B, T, H * W)`."""
    return x.transpose(1, 2).flatten(2)


# ---- what the judge reads ------------------------------------------------------------------------

import torch

from minitx.learn.seeded import normal
from minitx.learn.trial import Calls, Code, Trial

HINTS = (
    "split_heads in two moves: the last axis becomes two, (H, W), in this order, as head h has "
    "columns in a row; then the heads move before the positions. merge_heads goes back.",
    "x.view(B, T, n_heads, -1), then .transpose(1, 2). Back: .transpose(1, 2), then .flatten(2), "
    "which joins the last two axes, and copies where a view can't.",
)
SLIPS = """
The heads are cut without transposing, so that each holds pieces of positions: view as (B, T, H, W)
first, then exchange axes 1 and 2.
    x.view(batch, length, n_heads, -1).transpose(1, 2) -> x.reshape(batch, n_heads, length, -1)
The heads are interleaved: head h has the columns from h*W on, not every H-th one.
    x.view(batch, length, n_heads, -1).transpose(1, 2)
    -> x.view(batch, length, -1, n_heads).permute(0, 3, 1, 2)
The heads are merged without transposing back: positions get numbers of others.
    x.transpose(1, 2).flatten(2) -> x.reshape(x.size(0), x.size(2), -1)
The merged heads are interleaved: head h fills the columns from h*W on.
    x.transpose(1, 2).flatten(2) -> x.permute(0, 2, 3, 1).flatten(2)
"""


REFERENCE = Code(
    split_heads=lambda x, n_heads: torch.stack(x.chunk(n_heads, dim=-1), dim=1),
    merge_heads=lambda x: torch.cat(x.unbind(1), dim=-1),
)


def trials(answer: Code) -> Calls:
    """As many heads as positions, where axes could change places unseen, and not."""
    for batch, heads, length, width in ((2, 3, 4, 4), (1, 4, 4, 2)):
        x = normal(batch, length, heads * width)
        about = f"split_heads(x, {heads}), x {tuple(x.shape)}"
        yield Trial(about, answer.split_heads, (x, heads))
        x = normal(batch, heads, length, width)
        yield Trial(f"merge_heads(x), x {tuple(x.shape)}", answer.merge_heads, (x,))
