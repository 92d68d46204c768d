"""The blocks in training, compiled: each is one call forward and one backward (`train_block.c`).

On a small model the layers' own arithmetic is a part of a step; the rest is spent between them, on
dispatching operations, on threads that wait for each other, and on carrying what one layer wrote
back to the next. Here a thread takes a sequence through the block by itself.

The formulas are those of `Block` under autocast to bfloat16, rounded at fewer places; tests compare
both with float64.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from minitx.fast.layers import rotary_tables
from minitx.fast.library import kernel_for, pointers
from minitx.fast.profiling import running_clock
from minitx.fast.support import product_dtype
from minitx.model.transformer import Block, SwiGLU, Transformer

_SIZES = ("batch", "seq", "heads", "kv_heads", "head_dim", "d_model", "d_ff")
_WEIGHTS = (
    "attention_gain", "query_gain", "key_gain", "mlp_gain", "qkv", "output", "gate_up", "down",
)  # fmt: skip
_MOST_THREADS = 64  # as MOST_THREADS in team.h
_GRADIENTS = (
    "grad_attention_gain", "grad_head_gains", "grad_mlp_gain", "grad_qkv", "grad_output",
    "grad_gate_up", "grad_down",
)  # fmt: skip


class _Block(ctypes.Structure):
    # As `Block` in train_block.c.
    _fields_ = (
        *((name, ctypes.c_long) for name in _SIZES),
        ("eps", ctypes.c_float),
        ("dropout", ctypes.c_float),
        ("seed", ctypes.c_uint64),
        ("threads", ctypes.c_int),
        *pointers("x", *_WEIGHTS, "cosine", "sine", "kept", "scratch", "out"),
        *pointers("grad", "grad_input", *_GRADIENTS, "seconds"),
    )


def run(model: Transformer, x: Tensor) -> Tensor:
    """The residual stream `(B, T, D)` after all blocks; where `support.takes_whole_blocks`."""
    tables = rotary_tables(model, x)
    assert tables is not None
    config = model.config
    dropout = config.dropout if model.training else 0.0
    # Of one number for each block, whether a number is kept is counted out: the same both ways.
    seeds = torch.zeros(config.n_layers, dtype=torch.int64)
    if dropout:
        seeds.random_()
    sizes = (config.n_heads, config.n_kv_heads, config.head_dim, config.d_model, config.d_ff)
    settings = _Settings(
        (*x.shape[:2], *sizes), config.norm_eps, dropout, seeds.tolist(), product_dtype(x)
    )
    weights = [weight for block in model.blocks for weight in _weights(block)]
    out: Tensor = _RunBlocks.apply(settings, x, *tables, *weights)  # type: ignore[no-untyped-call]
    return out


def _weights(block: object) -> tuple[Tensor, ...]:
    # In the order of `_WEIGHTS`.
    assert isinstance(block, Block)
    attention, mlp = block.attention, block.mlp
    assert isinstance(mlp, SwiGLU)
    assert attention.query_norm is not None
    assert attention.key_norm is not None
    return (
        block.attention_norm.gain, attention.query_norm.gain, attention.key_norm.gain,
        block.mlp_norm.gain, attention.qkv.weight, attention.output.weight, mlp.gate_up.weight,
        mlp.down.weight,
    )  # fmt: skip


class _Settings(NamedTuple):
    sizes: tuple[int, ...]  # In the order of `_SIZES`.
    eps: float
    dropout: float
    seeds: list[int]  # One for each block.
    dtype: torch.dtype  # Of products.

    def call(self, number: int, x: Tensor, weights: Sequence[Tensor], *tables: Tensor) -> _Block:
        # What both ways through block `number` share.
        return _Block(
            *self.sizes, self.eps, self.dropout, self.seeds[number],
            min(torch.get_num_threads(), _MOST_THREADS),
            *(t.data_ptr() for t in (x, *_of_block(number, weights), *tables)),
        )  # fmt: skip


class _RunBlocks(Function):
    @staticmethod
    def forward(
        ctx: Any, settings: _Settings, x: Tensor, cosine: Tensor, sine: Tensor, *weights: Tensor
    ) -> Tensor:
        dtype = settings.dtype
        streams, kept = [x.contiguous()], []
        scratch = None
        for number in range(len(settings.seeds)):
            call = settings.call(number, streams[-1], weights, cosine, sine)
            address = ctypes.byref(call)
            if scratch is None:
                scratch = _bytes(kernel_for("block_scratch", dtype)(address, 0))
            streams.append(torch.empty_like(streams[-1]))
            kept.append(_bytes(kernel_for("block_kept", dtype)(address)))
            call.out, call.kept = streams[-1].data_ptr(), kept[-1].data_ptr()
            call.scratch = scratch.data_ptr()
            if clock := running_clock():
                call.seconds, clock.blocks = ctypes.addressof(clock.forward), True
            kernel_for("block_forward", dtype)(address)
        ctx.save_for_backward(cosine, sine, *streams[:-1], *kept, *weights)
        ctx.settings = settings
        return streams[-1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        dtype = ctx.settings.dtype
        cosine, sine, *saved = ctx.saved_tensors
        n = len(ctx.settings.seeds)
        streams, kept, weights = saved[:n], saved[n : 2 * n], saved[2 * n :]
        grad = grad.contiguous()
        scratch = None
        gradients: list[Tensor] = []
        for number in reversed(range(n)):
            grad_input = torch.empty_like(grad)
            grad_head_gains = torch.empty(2, len(weights[1]))
            grad_weights = [torch.empty_like(weight) for weight in _of_block(number, weights)]
            grad_weights[1:3] = grad_head_gains.unbind(0)
            call = ctx.settings.call(number, streams[number], weights, cosine, sine)
            address = ctypes.byref(call)
            if scratch is None:
                scratch = _bytes(kernel_for("block_scratch", dtype)(address, 1))
            call.kept, call.scratch = kept[number].data_ptr(), scratch.data_ptr()
            call.grad, call.grad_input = grad.data_ptr(), grad_input.data_ptr()
            for name, gradient in zip(
                _GRADIENTS, (grad_weights[0], grad_head_gains, *grad_weights[3:]), strict=True
            ):
                setattr(call, name, gradient.data_ptr())
            if clock := running_clock():
                call.seconds = ctypes.addressof(clock.backward)
            kernel_for("block_backward", dtype)(address)
            grad, gradients = grad_input, grad_weights + gradients
        return None, grad, None, None, *gradients


def _bytes(count: int) -> Tensor:
    return torch.empty(count, dtype=torch.uint8)


def _of_block(number: int, weights: Sequence[Tensor]) -> Sequence[Tensor]:
    return weights[number * len(_WEIGHTS) : (number + 1) * len(_WEIGHTS)]
