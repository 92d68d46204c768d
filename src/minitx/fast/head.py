"""The end of the model in training, compiled: last norm, logits and loss in one call.

The gradients come out of the same call (`train_head.c`): they are those of the mean loss, whatever
it is multiplied with later. The formulas are those of `Transformer.loss`, with products in float32
or as under autocast to bfloat16; tests compare both with float64.
"""

from __future__ import annotations

import ctypes
import time
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from minitx.fast.library import kernel_for, pointers, team_size
from minitx.fast.profiling import running_clock
from minitx.fast.support import product_dtype
from minitx.model.transformer import IGNORED, Transformer


class _Head(ctypes.Structure):
    # As `Head` in train_head.c.
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("rows", "d_model", "vocab")),
        ("eps", ctypes.c_float),
        ("threads", ctypes.c_int),
        ("ignored", ctypes.c_int64),
        *pointers("x", "gain", "weight", "targets", "scratch", "loss"),
        *pointers("grad_input", "grad_gain", "grad_weight"),
    )


def loss(model: Transformer, x: Tensor, targets: Tensor) -> Tensor:
    """`Transformer.loss` of the residual stream after the last block: a scalar, nats per target.

    Where `support.takes_head`; the targets are `(B, T)` int64.

    Raises:
        IndexError: a target is no token.
    """
    began = time.perf_counter()
    out: Tensor = _HeadLoss.apply(  # type: ignore[no-untyped-call]
        x, model.norm.gain, model.head.weight, targets, IGNORED, model.norm.eps
    )
    if clock := running_clock():
        clock.head += time.perf_counter() - began
    return out


class _HeadLoss(Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, gain: Tensor, weight: Tensor, targets: Tensor, ignored: int, eps: float
    ) -> Tensor:
        dtype = product_dtype(x)
        x, targets = x.contiguous(), targets.contiguous()
        mean = torch.empty(())
        gradients = (torch.empty_like(x), torch.empty_like(gain), torch.empty_like(weight))
        call = _Head(
            targets.numel(), x.size(-1), weight.size(0), eps, team_size(), ignored,
            x.data_ptr(), gain.data_ptr(), weight.data_ptr(), targets.data_ptr(),
        )  # fmt: skip
        address = ctypes.byref(call)
        scratch = torch.empty(kernel_for("head_scratch", dtype)(address), dtype=torch.uint8)
        call.scratch, call.loss = scratch.data_ptr(), mean.data_ptr()
        call.grad_input, call.grad_gain, call.grad_weight = (g.data_ptr() for g in gradients)
        wrong = kernel_for("head_loss", dtype)(address)
        if wrong:
            raise IndexError(f"{wrong:,} targets are not among the {weight.size(0):,} tokens")
        ctx.save_for_backward(*gradients)
        return mean

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        gradients = ctx.saved_tensors
        if float(grad) != 1.0:
            gradients = tuple(gradient * grad for gradient in gradients)
        return *gradients, None, None, None
