"""The blocks in training, compiled: one call forward and one backward (`train_block.c`).

On a small model the layers' own arithmetic is a part of a step; the rest is spent between them, on
dispatching operations, on threads that wait for each other, and on carrying what one layer wrote
back to the next. Here a thread takes a few rows through all layers between two attentions.

The formulas are those of `Block`, with products in float32 or as under autocast to bfloat16, then
rounded at fewer places; tests compare both with float64.
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
from minitx.fast.library import kernel_for, pointers, team_size
from minitx.fast.profiling import running_clock
from minitx.fast.support import product_dtype
from minitx.model.transformer import Block, SwiGLU, Transformer

_SIZES = ("batch", "seq", "heads", "kv_heads", "head_dim", "d_model", "d_ff")
_WEIGHTS = (
    "attention_gain", "query_gain", "key_gain", "mlp_gain", "qkv", "output", "gate_up", "down",
)  # fmt: skip
_GRADIENTS = (
    "grad_attention_gain", "grad_head_gains", "grad_mlp_gain", "grad_qkv", "grad_output",
    "grad_gate_up", "grad_down",
)  # fmt: skip


class _Block(ctypes.Structure):
    # As `Block` in train_block.c.
    _fields_ = (
        *((name, ctypes.c_int64) for name in _SIZES),
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

    def calls(
        self, streams: Sequence[Tensor], weights: Sequence[Tensor], *tables: Tensor
    ) -> ctypes.Array[_Block]:
        # What both ways through each block share.
        blocks = (
            _Block(
                *self.sizes, self.eps, self.dropout, seed, team_size(),
                *(t.data_ptr() for t in (stream, *_of_block(number, weights), *tables)),
            )
            for number, (seed, stream) in enumerate(zip(self.seeds, streams, strict=False))
        )  # fmt: skip
        return (_Block * len(self.seeds))(*blocks)


class _RunBlocks(Function):
    @staticmethod
    def forward(
        ctx: Any, settings: _Settings, x: Tensor, cosine: Tensor, sine: Tensor, *weights: Tensor
    ) -> Tensor:
        dtype, n = settings.dtype, len(settings.seeds)
        streams = [x.contiguous(), *(torch.empty_like(x) for _ in range(n))]
        calls = settings.calls(streams, weights, cosine, sine)
        scratch = _bytes(kernel_for("block_scratch", dtype)(calls, 0))
        kept = [_bytes(kernel_for("block_kept", dtype)(calls)) for _ in range(n)]
        clock = running_clock()
        for call, out, its_kept in zip(calls, streams[1:], kept, strict=True):
            call.out, call.kept = out.data_ptr(), its_kept.data_ptr()
            call.scratch = scratch.data_ptr()
            if clock:
                call.seconds, clock.blocks = ctypes.addressof(clock.forward), True
        kernel_for("blocks_forward", dtype)(calls, n)
        ctx.save_for_backward(cosine, sine, *streams[:-1], *kept, *weights)
        ctx.settings = settings
        return streams[-1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        dtype, n = ctx.settings.dtype, len(ctx.settings.seeds)
        cosine, sine, *saved = ctx.saved_tensors
        streams, kept, weights = saved[:n], saved[n : 2 * n], saved[2 * n :]
        grad = grad.contiguous()
        grad_input = torch.empty_like(grad)
        calls = ctx.settings.calls(streams, weights, cosine, sine)
        scratch = _bytes(kernel_for("block_scratch", dtype)(calls, 1))
        clock = running_clock()
        gradients: list[Tensor] = []
        for number, (call, its_kept) in enumerate(zip(calls, kept, strict=True)):
            grad_weights = [torch.empty_like(weight) for weight in _of_block(number, weights)]
            grad_head_gains = torch.empty(2, len(weights[1]))
            grad_weights[1:3] = grad_head_gains.unbind(0)
            call.kept, call.scratch = its_kept.data_ptr(), scratch.data_ptr()
            # The last block's comes from above, and must stay as it is.
            call.grad = (grad if number == n - 1 else grad_input).data_ptr()
            call.grad_input = grad_input.data_ptr()
            for name, gradient in zip(
                _GRADIENTS, (grad_weights[0], grad_head_gains, *grad_weights[3:]), strict=True
            ):
                setattr(call, name, gradient.data_ptr())
            if clock:
                call.seconds = ctypes.addressof(clock.backward)
            gradients += grad_weights
        kernel_for("blocks_backward", dtype)(calls, n)
        return None, grad_input, None, None, *gradients


def _bytes(count: int) -> Tensor:
    return torch.empty(count, dtype=torch.uint8)


def _of_block(number: int, weights: Sequence[Tensor]) -> Sequence[Tensor]:
    return weights[number * len(_WEIGHTS) : (number + 1) * len(_WEIGHTS)]
