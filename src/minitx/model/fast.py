"""The same arithmetic in fewer passes over memory, for training.

On a small model most of the time goes not into matrix products but into what stands between them,
one pass over memory after another. Each function here computes what a plain formula elsewhere
says (named in its docstring), with a backward pass written by hand; tests compare both, and
`use_fast` chooses. `minitx profile` shows what they cost.

Where there are compiled kernels (`native_ops`), a function is one pass over memory each way; else
torch's operations do it in several.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from minitx.model import native_ops

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


def attend(
    qkv: Tensor,
    heads: int,
    kv_heads: int,
    gains: tuple[Tensor, Tensor] | None,
    tables: tuple[Tensor, Tensor] | None,
    eps: float,
) -> Tensor:
    """Causal `explicit_attention`, after `norm_and_rotate`; only where `can_attend` says so.

    Args:
        qkv: `(batch, seq, (heads + 2 * kv_heads) * head_dim)`: queries, keys, values.
        heads, kv_heads: how many; neighbouring heads of queries share one of keys and values.
        gains: of the norm of queries and of keys, each `(head_dim,)`; None if there is neither
            norm nor rotation.
        tables: cosine and sine, `(seq, head_dim)`; None with `gains`.
        eps: of the norm.

    Returns:
        `(batch, seq, heads * head_dim)`.
    """
    gain_pair, table_pair = gains or (None, None), tables or (None, None)
    out: Tensor = _Attend.apply(  # type: ignore[no-untyped-call]
        qkv, heads, kv_heads, *gain_pair, *table_pair, eps
    )
    return out


def can_attend(qkv: Tensor, gain: Tensor | None, table: Tensor | None) -> bool:
    """Whether `attend` takes these: the projection, and one gain and one table of those it has."""
    if not use_fast(qkv) or not native_ops.usable(qkv):
        return False
    return (gain is None or gain.dtype == torch.float32) and (
        table is None or (table.dim() == 2 and table.dtype == qkv.dtype)
    )


def cross_entropy(logits: Tensor, targets: Tensor, ignored: int) -> Tensor:
    """`F.cross_entropy` in float32 or better: the mean over targets that are not `ignored`.

    Args:
        logits: `(rows, vocab)`.
        targets: `(rows,)`.
        ignored: the target that counts for nothing.
    """
    if use_fast(logits) and native_ops.usable(logits[:, :1]):
        out: Tensor = _CrossEntropy.apply(logits, targets, ignored)  # type: ignore[no-untyped-call]
        return out
    # Half precision is too coarse for a softmax over many tokens.
    logits = logits.float() if logits.dtype.itemsize < 4 else logits
    return torch.nn.functional.cross_entropy(logits, targets, ignore_index=ignored)


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
        ctx.compiled = gain.dtype == torch.float32 and native_ops.usable(x, dtype)
        if ctx.compiled:
            out, unit, scale = native_ops.norm_forward(x.contiguous(), gain, eps, dtype)
            ctx.save_for_backward(unit, scale, gain)
            ctx.input_dtype = x.dtype
            return out
        scale = _scale_to_unit(x, eps)
        unit = (x * scale).to(dtype)
        ctx.save_for_backward(unit, scale, gain)
        ctx.input_dtype = x.dtype
        return unit * gain.to(dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        unit, scale, gain = ctx.saved_tensors
        if ctx.compiled:
            back, by_gain = native_ops.norm_backward(
                grad.contiguous(), unit, scale, gain, ctx.input_dtype
            )
            return back, by_gain, None, None
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
        ctx.compiled = native_ops.usable(gate_up)
        if ctx.compiled:
            gate_up = gate_up.contiguous()
            ctx.save_for_backward(gate_up)
            return native_ops.swiglu_forward(gate_up)
        gate, up = gate_up.chunk(2, dim=-1)
        active = torch.nn.functional.silu(gate)
        ctx.save_for_backward(gate_up, active)
        return active * up

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        if ctx.compiled:
            return native_ops.swiglu_backward(grad.contiguous(), *ctx.saved_tensors)
        gate_up, active = ctx.saved_tensors
        gate, up = gate_up.chunk(2, dim=-1)
        both = torch.empty_like(gate_up)
        by_gate, by_up = both.chunk(2, dim=-1)
        torch.ops.aten.silu_backward.grad_input(grad * up, gate, grad_input=by_gate)
        torch.mul(grad, active, out=by_up)
        return both


class _Attend(Function):
    @staticmethod
    def forward(
        ctx: Any,
        qkv: Tensor,
        heads: int,
        kv_heads: int,
        query_gain: Tensor | None,
        key_gain: Tensor | None,
        cosine: Tensor | None,
        sine: Tensor | None,
        eps: float,
    ) -> Tensor:
        tensors = (qkv.contiguous(), query_gain, key_gain, cosine, sine)
        ctx.numbers = (heads, kv_heads, eps)
        out, log_sums = _attention(tensors, ctx.numbers).forward()
        ctx.save_for_backward(*tensors, out, log_sums)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        *tensors, out, log_sums = ctx.saved_tensors
        kernel = _attention(tuple(tensors), ctx.numbers)
        back, by_gains = kernel.backward(grad.contiguous(), out, log_sums)
        by_query, by_key = (None, None) if tensors[1] is None else by_gains.unbind(0)
        return back, None, None, by_query, by_key, None, None, None


def _attention(
    tensors: tuple[Tensor | None, ...], numbers: tuple[int, int, float]
) -> native_ops.CausalAttention:
    qkv, query_gain, key_gain, cosine, sine = tensors
    heads, kv_heads, eps = numbers
    assert qkv is not None
    gains = None if query_gain is None or key_gain is None else (query_gain, key_gain)
    tables = None if cosine is None or sine is None else (cosine, sine)
    return native_ops.CausalAttention(qkv, heads, kv_heads, gains, tables, eps)


class _CrossEntropy(Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, ignored: int) -> Tensor:
        logits, targets = logits.contiguous(), targets.contiguous()
        found, log_sums = native_ops.loss_forward(logits, targets, ignored)
        ctx.save_for_backward(logits, targets, found, log_sums)
        ctx.ignored = ignored
        return found[0].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        logits, targets, found, log_sums = ctx.saved_tensors
        back = native_ops.loss_backward(grad, logits, targets, ctx.ignored, found, log_sums)
        return back, None, None
