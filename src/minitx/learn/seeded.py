"""Numbers that inputs of exercises are made of: random, and the same on every machine and day."""

from __future__ import annotations

import math
from typing import TypeVar

import torch
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal float32 numbers, to a multiple of 1/64, so that they can be read."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(shape, generator=generator) * 64).round() / 64


def token_ids(*shape: int, vocab_size: int, seed: int = 0) -> Tensor:
    """Ids below `vocab_size`, int64."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(vocab_size, shape, generator=generator)


def with_weights(module: M, seed: int = 0) -> M:
    """Give each parameter of a module numbers that follow from its name and `seed`.

    So two modules with parameters of the same names compute with the same weights.
    """
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            own = seed + sum(i * ord(letter) for i, letter in enumerate(name, 1))
            drawn = normal(*parameter.shape, seed=own)
            if parameter.dim() > 1:
                parameter.copy_(drawn / math.sqrt(parameter.shape[-1]))
            else:
                parameter.copy_(1.0 + drawn / 4)
    return module
