"""The parts of a model that torch.compile makes faster in training: a block, and the loss.

All blocks are alike, so one is compiled and serves for all. The loss stands apart, since its
gradient is computed with it: the logits are the largest thing in a step by far, and so they are
written once and read once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from minitx.model.attention import AttentionContext
from minitx.model.norms import product_dtype

if TYPE_CHECKING:
    from minitx.model.block import Block

_LOGITS_AT_ONCE = 2**31 - 1
"""Of a slice of the tokens: as many as 32 bits can number, which the kernels then do."""

_LossAndGradient = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


class CompiledParts:
    """What `Transformer.compile_parts` uses; compiled when first called with a shape."""

    def __init__(self) -> None:
        self._block = torch.compile(_run_block)
        self._norm = torch.compile(_run_norm)
        self._loss_and_gradient: _LossAndGradient = torch.compile(loss_and_gradient)

    def block(self, block: Block, x: Tensor, context: AttentionContext) -> Tensor:
        """`Block.forward`: `(batch, seq, d_model)` to the same."""
        out: Tensor = self._block(block, x, context)
        return out

    def loss(
        self, norm: nn.Module, head: nn.Linear, x: Tensor, targets: Tensor, ignored: int
    ) -> Tensor:
        """Mean cross-entropy of a residual stream, as `Transformer.loss`.

        Args:
            norm, head: the model's last.
            x: `(batch, seq, d_model)`.
            targets: `(batch, seq)`.
            ignored: the target that counts for nothing.

        Returns:
            Scalar, float32.
        """
        hidden = self._norm(norm, x).flatten(0, 1)
        kernel = _gpu_kernel() if x.is_cuda else None
        out: Tensor = _HeadLoss.apply(  # type: ignore[no-untyped-call]
            hidden, head.weight, targets.flatten(), ignored, kernel or self._loss_and_gradient
        )
        return out


@functools.cache
def _gpu_kernel() -> _LossAndGradient | None:
    try:
        from minitx.model import triton_loss
    except ImportError:
        return None
    return triton_loss.loss_and_gradient


def _run_block(block: Block, x: Tensor, context: AttentionContext) -> Tensor:
    out: Tensor = block(x, context)
    return out


def _run_norm(norm: nn.Module, x: Tensor) -> Tensor:
    out: Tensor = norm(x)
    return out.to(product_dtype(x))


def loss_and_gradient(logits: Tensor, targets: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy of each row times its share, and the gradient of their sum.

    Args:
        logits: `(rows, vocab)`.
        targets: `(rows,)`; where a share is 0, any number.
        shares: `(rows,)` of each row in the sum, float32.

    Returns:
        `(rows,)` nats, and `(rows, vocab)` in the format of the logits.
    """
    precise = logits.float()
    log_sums = precise.logsumexp(-1, keepdim=True)
    is_target = torch.arange(logits.size(-1), device=logits.device) == targets[:, None]
    losses = log_sums.squeeze(-1) - torch.where(is_target, precise, 0.0).sum(-1)
    gradient = ((precise - log_sums).exp() - is_target.float()) * shares[:, None]
    # Not a product: the loss of a row that does not count may be no number.
    return torch.where(shares > 0, losses * shares, 0.0), gradient.to(logits.dtype)


def _rows_at_once(n_rows: int, vocab: int) -> int:
    # Slices of one length where there are such: each length is compiled by itself.
    fewest = -(-n_rows * vocab // _LOGITS_AT_ONCE)
    even = (n for n in range(fewest, min(2 * fewest, n_rows) + 1) if n_rows % n == 0)
    return -(-n_rows // next(even, fewest))


class _HeadLoss(Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        ignored: int,
        step: _LossAndGradient,
    ) -> Tensor:
        matrix = weight.to(hidden.dtype)
        counts = targets != ignored
        shares = counts / counts.sum()
        by_hidden = torch.empty_like(hidden)
        by_weight = torch.zeros_like(weight, dtype=torch.float32)
        loss = torch.zeros((), device=hidden.device)
        n_rows = _rows_at_once(len(hidden), len(weight))
        for some, back, expected, share in zip(
            *(torch.split(t, n_rows) for t in (hidden, by_hidden, targets, shares)), strict=True
        ):
            losses, gradient = step(some @ matrix.T, expected, share)
            loss += losses.sum()
            torch.mm(gradient, matrix, out=back)
            by_weight += gradient.T @ some
        ctx.save_for_backward(by_hidden, by_weight)
        ctx.weight_dtype = weight.dtype
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        by_hidden, by_weight = ctx.saved_tensors
        # Multiplied afterwards: the mean's own gradient is 1, or one over the passes of a step.
        by_hidden = by_hidden * grad.to(by_hidden.dtype)
        return by_hidden, (by_weight * grad).to(ctx.weight_dtype), None, None, None
