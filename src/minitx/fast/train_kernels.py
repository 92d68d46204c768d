"""The compiled kernels of a layer's arithmetic as functions of tensors, each with its gradients.

A kernel reads contiguous tensors of float32 or bfloat16 on the CPU, and computes in float32. Sums
over rows are formed in slices of fixed size, so the numbers do not depend on how many threads share
the work.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from minitx.fast.library import call, loaded_kernels

_SLICE = 64  # as SLICE in rows.h


def rms_norm(x: Tensor, gain: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """`RMSNorm.forward` of `(..., width)`, given out in `dtype`."""
    out: Tensor = _RMSNorm.apply(x, gain, eps, dtype)  # type: ignore[no-untyped-call]
    return out


class _RMSNorm(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        x = x.contiguous()
        width = x.size(-1)
        rows = x.numel() // width
        out = torch.empty(x.shape, dtype=dtype)
        # The rows before the gain, and what each was multiplied with.
        unit, scales = torch.empty(x.shape, dtype=dtype), torch.empty(rows)
        call("norm_forward", x, x.dtype, gain, eps, rows, width, out, unit, dtype, scales)
        ctx.save_for_backward(unit, scales, gain)
        ctx.input_dtype = x.dtype
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        unit, scales, gain = ctx.saved_tensors
        width = unit.size(-1)
        rows = unit.numel() // width
        grad_input = torch.empty(unit.shape, dtype=ctx.input_dtype)
        grad_gain = torch.empty_like(gain)
        partial = torch.empty(-(-rows // _SLICE), width)
        call(
            "norm_backward", grad.contiguous(), unit, unit.dtype, scales, gain, rows, width,
            grad_input, ctx.input_dtype, grad_gain, partial,
        )  # fmt: skip
        return grad_input, grad_gain, None, None


def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) * up, with gate and up the halves of the last dimension."""
    out: Tensor = _SwiGLU.apply(gate_up)  # type: ignore[no-untyped-call]
    return out


class _SwiGLU(Function):
    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        gate_up = gate_up.contiguous()
        ctx.save_for_backward(gate_up)
        width = gate_up.size(-1) // 2
        out = torch.empty((*gate_up.shape[:-1], width), dtype=gate_up.dtype)
        call("swiglu_forward", gate_up, gate_up.dtype, out.numel() // width, width, out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (gate_up,) = ctx.saved_tensors
        width = gate_up.size(-1) // 2
        grad_input, rows = torch.empty_like(gate_up), grad.numel() // width
        call("swiglu_backward", grad.contiguous(), gate_up, gate_up.dtype, rows, width, grad_input)
        return grad_input


def cross_entropy(logits: Tensor, targets: Tensor, ignored: int) -> Tensor:
    """`F.cross_entropy` of `(rows, vocab)`: the mean over the targets that are not `ignored`.

    Raises:
        IndexError: a target is no token.
    """
    out: Tensor = _CrossEntropy.apply(logits, targets, ignored)  # type: ignore[no-untyped-call]
    return out


class _CrossEntropy(Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, ignored: int) -> Tensor:
        logits, targets = logits.contiguous(), targets.contiguous()
        rows, vocab = logits.shape
        log_sums, losses, mean_and_count = torch.empty(rows), torch.empty(rows), torch.empty(2)
        wrong = call(
            "loss_forward", logits, logits.dtype, targets, ignored, rows, vocab, log_sums, losses,
            mean_and_count,
        )  # fmt: skip
        if wrong:
            raise IndexError(f"{wrong:,} targets are not among the {vocab:,} tokens")
        ctx.save_for_backward(logits, targets, mean_and_count, log_sums)
        ctx.ignored = ignored
        return mean_and_count[0].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        logits, targets, mean_and_count, log_sums = ctx.saved_tensors
        grad_logits = torch.empty_like(logits)
        call(
            "loss_backward", logits, logits.dtype, targets, ctx.ignored, *logits.shape, log_sums,
            mean_and_count, grad, grad_logits,
        )  # fmt: skip
        return grad_logits, None, None


def attend(
    qkv: Tensor,
    heads: int,
    kv_heads: int,
    gains: tuple[Tensor, Tensor] | None,
    tables: tuple[Tensor, Tensor] | None,
    eps: float,
) -> Tensor:
    """Norm and rotation of queries and keys, then causal `eager_attention`.

    Args:
        qkv: `(B, T, (heads + 2 * kv_heads) * W)`: queries, keys, values.
        heads, kv_heads: how many; neighbouring heads of queries share one of keys and values.
        gains: of the norm of queries and of keys, each `(W,)`; None if there is neither norm nor
            rotation.
        tables: cosine and sine, `(T, W)` in the format of qkv; None with `gains`.
        eps: of the norm.

    Returns:
        `(B, T, heads * W)`.
    """
    out: Tensor = _Attend.apply(  # type: ignore[no-untyped-call]
        (heads, kv_heads, eps), qkv, *(tables or (None, None)), *(gains or (None, None))
    )
    return out


class _Attend(Function):
    @staticmethod
    def forward(
        ctx: Any, sizes: tuple[int, int, float], qkv: Tensor, *tables_and_gains: Tensor | None
    ) -> Tensor:
        qkv = qkv.contiguous()
        heads, kv_heads, eps = sizes
        batch, seq, width = qkv.shape
        ctx.shape = (batch, seq, heads, kv_heads, width // (heads + 2 * kv_heads))
        ctx.eps = eps
        out = torch.empty((batch, seq, heads * ctx.shape[-1]), dtype=qkv.dtype)
        # The logarithms of the sums of the weights.
        log_sums = torch.empty(batch, heads, seq)
        call(
            "attention_forward", qkv, qkv.dtype, *tables_and_gains, eps, *ctx.shape, out, log_sums,
            _attention_scratch(seq, ctx.shape[-1]),
        )  # fmt: skip
        ctx.save_for_backward(qkv, *tables_and_gains, out, log_sums)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        qkv, *tables_and_gains, out, log_sums = ctx.saved_tensors
        batch, seq, _, kv_heads, head_dim = ctx.shape
        grad_qkv, grad_gains = torch.empty_like(qkv), torch.empty(2, head_dim)
        partial = torch.empty(batch * kv_heads, 2 * head_dim)
        call(
            "attention_backward", qkv, qkv.dtype, *tables_and_gains, ctx.eps, *ctx.shape, out,
            log_sums, grad.contiguous(), grad_qkv, grad_gains, partial,
            _attention_scratch(seq, head_dim),
        )  # fmt: skip
        has_gains = tables_and_gains[-1] is not None
        return None, grad_qkv, None, None, *(grad_gains.unbind(0) if has_gains else (None, None))


def _attention_scratch(seq: int, head_dim: int) -> Tensor:
    per_thread = loaded_kernels().minitx_attention_scratch(seq, head_dim)
    return torch.empty(torch.get_num_threads() * per_thread)
