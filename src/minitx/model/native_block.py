"""A whole block in training, compiled: one call forward and one backward (`train_block.c`).

On a small model the layers' own arithmetic is a part of a step; the rest is spent between them, on
dispatching operations, on threads that wait for each other, and on carrying what one layer wrote
back to the next. Here a thread takes a sequence through the block by itself.

The formulas are those of `Block` under autocast to bfloat16, rounded at fewer places; tests compare
both with float64.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from minitx.native import library

if TYPE_CHECKING:
    from minitx.model.block import Block

_SIZES = ("batch", "seq", "heads", "kv_heads", "head_dim", "d_model", "d_ff")
_WEIGHTS = (
    "attention_gain", "query_gain", "key_gain", "mlp_gain", "qkv", "output", "gate_up", "down",
)  # fmt: skip
_GRADIENTS = (
    "attention_gain", "head_gains", "mlp_gain", "qkv", "output", "gate_up", "down",
)  # fmt: skip
_BUSY = 0.75
"""Least part of the threads that must have work: each takes whole sequences."""


class _Block(ctypes.Structure):
    # As `Block` in train_block.c.
    _fields_ = (
        *((name, ctypes.c_long) for name in _SIZES),
        ("eps", ctypes.c_float),
        ("threads", ctypes.c_int),
        ("x", ctypes.c_void_p),
        *((name, ctypes.c_void_p) for name in _WEIGHTS),
        *((name, ctypes.c_void_p) for name in ("cosine", "sine", "kept", "scratch")),
        *((name, ctypes.c_void_p) for name in ("out", "grad", "back")),
        *((f"by_{name}", ctypes.c_void_p) for name in _GRADIENTS),
    )


@functools.cache
def _kernels() -> ctypes.CDLL | None:
    # The library if this processor can run the block, else None.
    found = library()
    if found is None or not found.minitx_bfloat16_products():
        return None
    pointer = ctypes.POINTER(_Block)
    found.minitx_block_kept.argtypes = [pointer]
    found.minitx_block_scratch.argtypes = [pointer, ctypes.c_int]
    found.minitx_block_kept.restype = found.minitx_block_scratch.restype = ctypes.c_size_t
    for kernel in (found.minitx_block_forward, found.minitx_block_backward):
        kernel.argtypes, kernel.restype = [pointer], None
    return found


def computes_in_bfloat16(x: Tensor) -> bool:
    """Whether x is of a training step whose products such kernels compute, on this processor."""
    return (
        x.requires_grad
        and torch.is_grad_enabled()
        and x.dtype == torch.float32
        and x.device.type == "cpu"
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") == torch.bfloat16
        and not torch.compiler.is_compiling()
        and _kernels() is not None
    )


def is_watched(modules: Iterable[nn.Module]) -> bool:
    """Whether somebody hooks into one of them, and would not be called."""
    return any(module._forward_hooks or module._forward_pre_hooks for module in modules)


def can_run(block: Block, x: Tensor) -> bool:
    """Whether the kernel computes this block for a residual stream `(batch, seq, d_model)`.

    In training, in bfloat16, for the `qwen3` architecture without dropout, where nobody hooks into
    the block's modules, sizes are even and there are enough sequences for all threads.
    """
    if block.shape is None or not computes_in_bfloat16(x):
        return False
    batch, seq, _ = x.shape
    threads = torch.get_num_threads()
    turns = -(-batch // threads)
    return (
        not (block.training and block.dropout)
        and seq % 2 == 0
        and batch >= _BUSY * turns * threads
        and not is_watched(block.parts)
        and all(p.dtype == torch.float32 and p.is_contiguous() for p in block.weights())
    )


def run(block: Block, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """`block(x)`: the residual stream `(batch, seq, d_model)` after it; see `can_run`.

    Args:
        block: its weights.
        x: the residual stream, float32.
        cosine, sine: rotary tables, `(seq, head_dim)`, bfloat16.
    """
    assert block.shape is not None
    out: Tensor = _RunBlock.apply(  # type: ignore[no-untyped-call]
        x, cosine, sine, block.shape, *block.weights()
    )
    return out


class _RunBlock(Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        cosine: Tensor,
        sine: Tensor,
        shape: tuple[int, int, int, int, float],
        *weights: Tensor,
    ) -> Tensor:
        kernels = _kernels()
        assert kernels is not None
        x = x.contiguous()
        out = torch.empty_like(x)
        call = _call(x, cosine, sine, shape, weights)
        call.out = out.data_ptr()
        kept = torch.empty(kernels.minitx_block_kept(call), dtype=torch.uint8)
        scratch = torch.empty(kernels.minitx_block_scratch(call, 0), dtype=torch.uint8)
        call.kept, call.scratch = kept.data_ptr(), scratch.data_ptr()
        kernels.minitx_block_forward(call)
        ctx.save_for_backward(x, cosine, sine, kept, *weights)
        ctx.shape = shape
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        kernels = _kernels()
        assert kernels is not None
        x, cosine, sine, kept, *weights = ctx.saved_tensors
        grad = grad.contiguous()
        back = torch.empty_like(x)
        by_heads = torch.empty(2, ctx.shape[2])
        by_weights = [torch.empty_like(weight) for weight in weights]
        by_weights[1], by_weights[2] = by_heads.unbind(0)
        call = _call(x, cosine, sine, ctx.shape, weights)
        scratch = torch.empty(kernels.minitx_block_scratch(call, 1), dtype=torch.uint8)
        call.kept, call.scratch = kept.data_ptr(), scratch.data_ptr()
        call.grad, call.back = grad.data_ptr(), back.data_ptr()
        given = [by_weights[0], by_heads, *by_weights[3:]]
        for name, gradient in zip(_GRADIENTS, given, strict=True):
            setattr(call, f"by_{name}", gradient.data_ptr())
        kernels.minitx_block_backward(call)
        return back, None, None, None, *by_weights


def _call(
    x: Tensor,
    cosine: Tensor,
    sine: Tensor,
    shape: tuple[int, int, int, int, float],
    weights: tuple[Tensor, ...] | list[Tensor],
) -> _Block:
    heads, kv_heads, head_dim, d_ff, eps = shape
    batch, seq, d_model = x.shape
    return _Block(
        batch, seq, heads, kv_heads, head_dim, d_model, d_ff, eps, torch.get_num_threads(),
        x.data_ptr(), *(weight.data_ptr() for weight in weights),
        cosine.data_ptr(), sine.data_ptr(),
    )  # fmt: skip
