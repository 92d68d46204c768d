"""The norm

Layers add to the residual stream, so its numbers grow with depth; each layer wants input of about
size 1. RMSNorm divides every vector by the root of its mean square, and multiplies by a gain that
is learned. Each position is normalized by itself, over its width.

    norm(x) = x / sqrt( mean(x^2) + eps ) * gain

LayerNorm, its elder, also subtracts the mean and adds a bias; it is no better for it.

Paper: Zhang and Sennrich 2019 (RMSNorm), equation 4.
In minitx: model/transformer.py: RMSNorm
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class RMSNorm(nn.Module):
    """Divide by the root of the mean square, times a gain."""

    def __init__(self, width: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """`(..., width)` to the same shape."""
        mean_square = x.pow(2).mean(dim=-1, keepdim=True)
        return x / (mean_square + self.eps).sqrt() * self.gain


# ---- what the judge reads ------------------------------------------------------------------------

from minitx.learn.seeded import normal, with_weights
from minitx.learn.trial import Calls, Code, Trial
from minitx.model import transformer

HINTS = (
    "Square, then mean over the last axis. keepdim=True keeps that axis, with size 1, so that the "
    "division broadcasts.",
    "x / torch.sqrt(mean_square + self.eps) * self.gain.",
)
SLIPS = r"""
The mean is subtracted, as LayerNorm does: RMSNorm leaves it.
    mean_square = x.pow(2) -> x = x - x.mean(dim=-1, keepdim=True)\n        mean_square = x.pow(2)
The root is missing: it divides by the mean square itself.
    ).sqrt() -> )
It divides by the root of the sum, and should by that of the mean.
    .mean(dim=-1, -> .sum(dim=-1,
The mean is over positions: each position is normalized by itself, over its width. (Over positions
it would even see the future.)
    .mean(dim=-1, -> .mean(dim=-2,
The mean is over the whole tensor: each position is normalized by itself.
    .mean(dim=-1, keepdim=True) -> .mean()
The gain is missing.
     * self.gain ->
The gain is added, and should multiply.
    * self.gain -> + self.gain
eps is missing: a vector of zeros divides by 0.
    mean_square + self.eps -> mean_square
It divides by the standard deviation, which leaves the mean out (and torch's divides by one less):
take the mean of the squares themselves.
    x.pow(2).mean(dim=-1, keepdim=True) -> x.var(dim=-1, keepdim=True)
eps is added to the root, and belongs under it.
    (mean_square + self.eps).sqrt() -> (mean_square.sqrt() + self.eps)
"""
REFERENCE = Code(RMSNorm=transformer.RMSNorm)


def trials(answer: Code) -> Calls:
    """An eps that shows, and the usual one on small and large numbers."""
    for eps, size in ((0.1, 1.0), (1e-6, 30.0)):
        norm = with_weights(answer.RMSNorm(6, eps))
        x = size * normal(2, 4, 6) + 0.5
        yield Trial(f"RMSNorm(6, eps={eps:g})(x), x (2, 4, 6)", norm, (x,))
