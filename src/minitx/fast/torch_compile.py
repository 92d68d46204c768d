"""The model in training through torch.compile: a block, and the loss.

All blocks are alike, so one is compiled and serves for all. The loss stands apart, since its
gradient is computed with it: the logits are the largest thing in a step by far, and so they are
written once and read once.
"""

from __future__ import annotations

import functools
import importlib.util
import shutil
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from minitx.fast.support import product_dtype
from minitx.model.transformer import IGNORED, Pass, Transformer

_LOGITS_AT_ONCE = 2**31 - 1
"""Of a slice of the tokens: as many as 32 bits can number, which the kernels then do."""

_LossAndGradient = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def can_compile(device: torch.device) -> bool:
    """Whether this machine has what torch.compile needs: a compiler, and for a GPU Triton."""
    if device.type == "cuda":
        return importlib.util.find_spec("triton") is not None and shutil.which("cc") is not None
    return any(shutil.which(compiler) is not None for compiler in ("c++", "g++", "clang++"))


class CompiledLoss:
    """`Transformer.loss`; what it computes is compiled when it is first called with a shape."""

    def __init__(self, model: Transformer) -> None:
        self._model = model
        self._block = torch.compile(_run_block)
        self._norm = torch.compile(_run_norm)
        self._loss_and_gradient: _LossAndGradient = torch.compile(loss_and_gradient)

    def __call__(self, ids: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy in nats, a scalar in float32, of `(B, T)` ids and targets."""
        model = self._model
        shared = model.new_pass(ids, None, None)
        x: Tensor = model.embedding(ids)
        if model.positions is not None:
            x = x + model.positions(shared.positions)
        x = F.dropout(x, model.config.dropout, model.training)
        for block in model.blocks:
            x = self._block(block, x, shared)
        hidden = self._norm(model.norm, x).flatten(0, 1)
        kernel = _gpu_kernel() if x.is_cuda else None
        loss: Tensor = _LossOfLogits.apply(  # type: ignore[no-untyped-call]
            hidden, model.head.weight, targets.flatten(), kernel or self._loss_and_gradient
        )
        return loss


@functools.cache
def _gpu_kernel() -> _LossAndGradient | None:
    try:
        from minitx.fast import triton_loss
    except ImportError:
        return None
    return triton_loss.loss_and_gradient


def _run_block(block: nn.Module, x: Tensor, shared: Pass) -> Tensor:
    out: Tensor = block(x, shared)
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
    # Not a product: the loss of a row that does not count may be NaN.
    return torch.where(shares > 0, losses * shares, 0.0), gradient.to(logits.dtype)


def _rows_at_once(n_rows: int, vocab: int) -> int:
    # Slices of one length where there are such: each length is compiled by itself.
    fewest = -(-n_rows * vocab // _LOGITS_AT_ONCE)
    even = (n for n in range(fewest, min(2 * fewest, n_rows) + 1) if n_rows % n == 0)
    return -(-n_rows // next(even, fewest))


class _LossOfLogits(Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        step: _LossAndGradient,
    ) -> Tensor:
        matrix = weight.to(hidden.dtype)
        counts = targets != IGNORED
        shares = counts / counts.sum()
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros_like(weight, dtype=torch.float32)
        loss = torch.zeros((), device=hidden.device)
        n_rows = _rows_at_once(len(hidden), len(weight))
        for rows, grad_rows, expected, share in zip(
            *(torch.split(t, n_rows) for t in (hidden, grad_hidden, targets, shares)), strict=True
        ):
            losses, gradient = step(rows @ matrix.T, expected, share)
            loss += losses.sum()
            torch.mm(gradient, matrix, out=grad_rows)
            grad_weight += gradient.T @ rows
        ctx.save_for_backward(grad_hidden, grad_weight)
        ctx.weight_dtype = weight.dtype
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_weight = ctx.saved_tensors
        # Multiplied afterwards: the mean's own gradient is 1, or one over the passes of a step.
        grad_hidden = grad_hidden * grad.to(grad_hidden.dtype)
        return grad_hidden, (grad_weight * grad).to(ctx.weight_dtype), None, None
