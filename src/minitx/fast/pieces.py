"""The loss of a large batch in pieces: the activations of one piece are in memory at a time.

A piece goes forward and backward before the next one begins, so nothing is computed twice, and the
memory of a step hardly grows with its batch. The gradients are those of the mean over the whole
batch, computed with the loss, as in `head`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from minitx.compute import LossFunction
from minitx.model.transformer import IGNORED

PIECE = 2048
"""Tokens in a piece, or one sequence: enough that to pack the matrices, and to add up their
gradients, is a small part of its work."""


def loss(of: LossFunction, weights: Sequence[nn.Parameter], ids: Tensor, targets: Tensor) -> Tensor:
    """`of(ids, targets)`, a mean over the targets that count: a scalar, nats per target.

    Args:
        of: the loss of `(B, T)` ids and targets as a function of the weights.
        weights: all that get a gradient.
        ids, targets: `(B, T)`.
    """
    size = max(1, PIECE // ids.size(1))
    if len(ids) <= size or not (targets != IGNORED).any():
        return of(ids, targets)
    out: Tensor = _InPieces.apply(of, size, ids, targets, *weights)  # type: ignore[no-untyped-call]
    return out


class _InPieces(Function):
    @staticmethod
    def forward(
        ctx: Any, of: LossFunction, size: int, ids: Tensor, targets: Tensor, *weights: nn.Parameter
    ) -> Tensor:
        count = (targets != IGNORED).sum()
        mean = torch.zeros(())
        gradients: list[Tensor] = []
        for first in range(0, len(ids), size):
            piece, its_targets = ids[first : first + size], targets[first : first + size]
            share = (its_targets != IGNORED).sum() / count
            if not share:
                continue
            with torch.enable_grad():
                part = of(piece, its_targets) * share
            mean += part.detach()
            added = torch.autograd.grad(part, weights)
            if gradients:
                torch._foreach_add_(gradients, added)
            else:
                gradients = list(added)
        ctx.gradients = gradients
        return mean

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        # Handed over, not kept: else each would be copied.
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:
            raise RuntimeError("the gradients of this loss were taken already")
        if float(grad) != 1.0:
            torch._foreach_mul_(gradients, float(grad))
        return None, None, None, None, *gradients
