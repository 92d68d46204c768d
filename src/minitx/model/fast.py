"""The same arithmetic in fewer passes over memory, for training.

On a small model most of the time goes not into matrix products but into what stands between them,
one pass over memory after another. Each function here computes what a plain formula elsewhere
says (named in its docstring), with a backward pass written by hand; tests compare both, and
`use_fast` chooses. `minitx profile` shows what they cost.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

_SIXTEEN_BITS = 2**16  # values of what decides on one element


def use_fast(x: Tensor) -> bool:
    """Whether to take these: in training, unless a compiler fuses the plain formulas itself."""
    return x.requires_grad and torch.is_grad_enabled() and not torch.compiler.is_compiling()


def rms_norm(x: Tensor, gain: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """`RMSNorm`: x / sqrt(mean(x^2) + eps) * gain, `(..., width)`, given out in `dtype`."""
    out: Tensor = _RMSNorm.apply(x, gain, eps, dtype)  # type: ignore[no-untyped-call]
    return out


def norm_and_rotate(x: Tensor, gains: Tensor, cosine: Tensor, sine: Tensor, eps: float) -> Tensor:
    """`RMSNorm` over each head, then `rotate`.

    Args:
        x: `(batch, seq, heads, head_dim)`.
        gains: `(heads, head_dim)`.
        cosine, sine: `(seq, head_dim)`.
        eps: of the norm.

    Returns:
        `(batch, seq, heads, head_dim)`.
    """
    out: Tensor = _NormAndRotate.apply(x, gains, cosine, sine, eps)  # type: ignore[no-untyped-call]
    return out


def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) * up, with gate and up the halves of the last dimension."""
    out: Tensor = _SwiGLU.apply(gate_up)  # type: ignore[no-untyped-call]
    return out


def dropout(x: Tensor, probability: float) -> Tensor:
    """`F.dropout` in training: 0 with this probability, and else divided by 1 - probability.

    On a CPU torch draws a number for each element, which took a third of a small model's step.
    Here one draw of 64 bits decides on four elements, so the probability is rounded to 2^-16.

    Args:
        x: any shape.
        probability: at least 0, below 1.

    Returns:
        As `x`.
    """
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return torch.nn.functional.dropout(x, probability)
    dropped = min(round(probability * _SIXTEEN_BITS), _SIXTEEN_BITS - 1)
    draws = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    kept = draws.view(torch.int16)[: x.numel()].view(x.shape) >= dropped - _SIXTEEN_BITS // 2
    return x * kept.to(x.dtype).mul_(_SIXTEEN_BITS / (_SIXTEEN_BITS - dropped))


def _scale_to_unit(x: Tensor, eps: float) -> Tensor:
    # 1 / sqrt(mean(x^2) + eps), (..., 1), in float32 or better.
    precise = torch.promote_types(x.dtype, torch.float32)
    norm: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=precise)
    return norm.square_().div_(x.size(-1)).add_(eps).rsqrt_()


def _unit_backward(grad: Tensor, unit: Tensor, scale: Tensor) -> Tensor:
    # Gradient of unit = x * scale(x): what lies along x drops out, since its length is fixed.
    along = torch.linalg.vecdot(grad, unit).unsqueeze(-1).div_(-unit.size(-1))
    return torch.addcmul(grad, unit, along).mul_(scale.to(grad.dtype))


class _RMSNorm(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        scale = _scale_to_unit(x, eps)
        unit = (x * scale).to(dtype)
        ctx.save_for_backward(unit, scale, gain)
        ctx.input_dtype = x.dtype
        return unit * gain.to(dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        unit, scale, gain = ctx.saved_tensors
        by_gain = (grad * unit).flatten(0, -2).sum(0, dtype=gain.dtype)
        back = _unit_backward(grad * gain.to(grad.dtype), unit, scale)
        return back.to(ctx.input_dtype), by_gain, None, None


class _NormAndRotate(Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, gains: Tensor, cosine: Tensor, sine: Tensor, eps: float
    ) -> Tensor:
        scale = _scale_to_unit(x, eps)
        unit = x * scale.to(x.dtype)
        ctx.save_for_backward(unit, scale, gains, cosine, sine)
        return _turn(unit * gains.to(x.dtype), cosine[:, None], sine[:, None])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        unit, scale, gains, cosine, sine = ctx.saved_tensors
        # The gradient of a turn is the turn back.
        grad = _turn(grad, cosine[:, None], -sine[:, None])
        by_gain = (grad * unit).flatten(0, 1).sum(0, dtype=gains.dtype)
        back = _unit_backward(grad * gains.to(grad.dtype), unit, scale)
        return back, by_gain, None, None, None


def _turn(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    # `rotate`: the sign is put into the small table instead of the large tensor.
    half = x.size(-1) // 2
    signed = torch.cat((-sine[..., :half], sine[..., half:]), dim=-1)
    return (x * cosine).addcmul_(x.roll(half, -1), signed)


class _SwiGLU(Function):
    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        gate, up = gate_up.chunk(2, dim=-1)
        active = torch.nn.functional.silu(gate)
        ctx.save_for_backward(gate_up, active)
        return active * up

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        gate_up, active = ctx.saved_tensors
        gate, up = gate_up.chunk(2, dim=-1)
        both = torch.empty_like(gate_up)
        by_gate, by_up = both.chunk(2, dim=-1)
        torch.ops.aten.silu_backward.grad_input(grad * up, gate, grad_input=by_gate)
        torch.mul(grad, active, out=by_up)
        return both
