"""Normalization: each vector on the residual stream is brought to unit size before it is read."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minitx.model.fast import rms_norm, use_fast


class RMSNorm(nn.Module):
    """Divide by the root of the mean square, then scale by a learned gain.

    Zhang and Sennrich 2019, equation 4. Unlike LayerNorm it neither subtracts the mean nor adds a
    bias.
    """

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalize the last dimension: `(..., width)` to `(..., width)`."""
        if use_fast(x):
            return rms_norm(x, self.gain, self.eps, product_dtype(x))
        return F.rms_norm(x, self.gain.shape, self.gain.to(x.dtype), self.eps)


class LayerNorm(nn.Module):
    """Subtract the mean, divide by the standard deviation, scale and shift (Ba et al. 2016)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalize the last dimension: `(..., width)` to `(..., width)`."""
        return F.layer_norm(
            x, self.gain.shape, self.gain.to(x.dtype), self.bias.to(x.dtype), self.eps
        )


def product_dtype(x: Tensor) -> torch.dtype:
    """Format in which a matrix product reads x: that of autocast, or its own."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
