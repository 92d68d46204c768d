"""Rotary frequencies that were slowed after training, for a longer context than it had."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def slowed(frequencies: Tensor, scaling: tuple[float, ...] | None) -> Tensor:
    """Radians a position of each pair, `(W / 2,)`; `scaling` as `ModelConfig.rope_scaling`.

    A single factor divides all (Chen et al. 2023, section 3.2). Llama 3.1 leaves those alone that
    turn often within the context before, divides those that turn seldom, and goes over from one to
    the other in between (Grattafiori et al. 2024, section 3.4.2; constants as in its code).
    """
    if not scaling:
        return frequencies
    factor, *bounds = scaling
    if not bounds:
        return frequencies / factor
    low, high, context = bounds
    turns = context * frequencies / (2 * math.pi)
    kept = torch.clamp((turns - low) / (high - low), 0.0, 1.0)
    return frequencies * (kept + (1.0 - kept) / factor)
