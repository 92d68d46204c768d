"""Norms and the residual stream: a block

A layer does not replace the vector of a position: it reads it and adds to it. So the stream carries
what earlier layers found, each layer has only a change to learn, and the gradient reaches the first
layer undiminished. Each layer reads through a norm; the stream itself has none (pre-norm).

    x = x + attention(attention_norm(x))
    x = x + mlp(mlp_norm(x))

The MLP reads what the attention of the same block has just written.

Paper: He et al. 2016 (residual); Xiong et al. 2020 (pre-norm), section 3, figure 1b.
In minitx: model/transformer.py: Block
"""

from __future__ import annotations

from torch import Tensor, nn

from minitx.learn.exercises.attention_layer import Attention
from minitx.learn.exercises.gated_mlp import SwiGLU
from minitx.learn.exercises.rms_norm import RMSNorm


class Block(nn.Module):
    """Attention and MLP, each behind a norm, each added to the stream."""

    def __init__(self, d_model: int, n_heads: int, d_ff: int) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(d_model)
        self.attention = Attention(d_model, n_heads)
        self.mlp_norm = RMSNorm(d_model)
        self.mlp = SwiGLU(d_model, d_ff)

    def forward(self, x: Tensor, angles: Tensor) -> Tensor:
        """x `(B, T, D)` and angles `(T, W / 2)` to `(B, T, D)`."""
        h = x + self.attention(self.attention_norm(x), angles)
        out: Tensor = h + self.mlp(self.mlp_norm(h))
        return out


# ---- what the judge reads ------------------------------------------------------------------------

import torch

from minitx.learn.exercises.attention_layer import shared_pass, small_config
from minitx.learn.seeded import normal, with_weights
from minitx.learn.trial import Calls, Code, Trial
from minitx.model import transformer

HINTS = (
    "Two lines, the formula as it stands. self.attention takes the angles as well.",
    "Mind what the second line reads: the x that the first line made, both times.",
)
SLIPS = """
The attention's residual is missing: it replaces the stream instead of adding to it.
    h = x + self.attention -> h = self.attention
The MLP's residual is missing: it replaces the stream instead of adding to it.
    = h + self.mlp( -> = self.mlp(
The norms stand after the sum (post-norm, as in 2017): each belongs before its layer, on the branch,
and the stream has none.
    h = x + self.attention(self.attention_norm(x), angles)
    -> h = self.attention_norm(x + self.attention(x, angles))
    h + self.mlp(self.mlp_norm(h)) -> self.mlp_norm(h + self.mlp(h))
The attention reads the stream without its norm.
    self.attention_norm(x) -> x
The MLP reads the stream without its norm.
    self.mlp_norm(h) -> h
The MLP reads the stream from before the attention (a parallel block, as in GPT-J): here it reads
what the attention has just written.
    self.mlp_norm(h) -> self.mlp_norm(x)
The normalized vector is added, and should be the stream itself: x, not norm(x).
    h = x + self.attention -> h = self.attention_norm(x) + self.attention
The MLP adds to the normalized vector, and should add to the stream itself.
    = h + self.mlp( -> = self.mlp_norm(h) + self.mlp(
"""


class _Ours(transformer.Block):
    def __init__(self, d_model: int, n_heads: int, d_ff: int) -> None:
        super().__init__(small_config(d_model, n_heads, d_ff=d_ff), layer=0)

    def forward(self, x: Tensor, angles: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x, shared_pass(angles))


REFERENCE = Code(Block=_Ours)


def trials(answer: Code) -> Calls:
    """One block, on a stream that is larger than 1."""
    block = with_weights(answer.Block(8, 2, 12))
    angles = torch.outer(torch.arange(5), torch.tensor([1.0, 0.1]))
    x = 3 * normal(2, 5, 8)
    yield Trial("Block(8, 2, 12)(x, angles), x (2, 5, 8)", block, (x, angles), is_causal=True)
