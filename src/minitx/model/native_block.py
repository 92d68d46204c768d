"""The blocks in training, compiled: each is one call forward and one backward (`train_block.c`).

On a small model the layers' own arithmetic is a part of a step; the rest is spent between them, on
dispatching operations, on threads that wait for each other, and on carrying what one layer wrote
back to the next. Here a thread takes a sequence through the block by itself.

The formulas are those of `Block` under autocast to bfloat16, rounded at fewer places; tests compare
both with float64.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from minitx.fast.library import LONGEST_ROW, library

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
        ("dropout", ctypes.c_float),
        ("seed", ctypes.c_uint64),
        ("threads", ctypes.c_int),
        ("x", ctypes.c_void_p),
        *((name, ctypes.c_void_p) for name in _WEIGHTS),
        *((name, ctypes.c_void_p) for name in ("cosine", "sine", "kept", "scratch")),
        *((name, ctypes.c_void_p) for name in ("out", "grad", "back")),
        *((f"by_{name}", ctypes.c_void_p) for name in _GRADIENTS),
        ("seconds", ctypes.c_void_p),
    )


class Clock:
    """Seconds that the parts of all blocks took since it was started, the mean of the threads.

    Attributes:
        forward, backward: of each of `PARTS`.
        head: of the call in `native_head`.
    """

    def __init__(self) -> None:
        self.forward, self.backward = _Seconds(), _Seconds()
        self.head = 0.0


PARTS: tuple[Literal["norm", "attention", "mlp"], ...] = ("norm", "attention", "mlp")
_Seconds = ctypes.c_double * len(PARTS)
_running: list[Clock] = []


@contextmanager
def clocked() -> Iterator[Clock]:
    """While active, the time that the compiled calls take is noted."""
    _running.append(Clock())
    try:
        yield _running[-1]
    finally:
        _running.pop()


def running_clock() -> Clock | None:
    """The one of `clocked`."""
    return _running[-1] if _running else None


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


def available() -> bool:
    """Whether this processor can run the kernel, and it was built."""
    return _kernels() is not None


def computes_in_bfloat16(x: Tensor) -> bool:
    """Whether x is of a training step whose products such kernels compute, on this processor."""
    return (
        x.requires_grad
        and torch.is_grad_enabled()
        and x.size(-1) <= LONGEST_ROW
        and x.dtype == torch.float32
        and x.device.type == "cpu"
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") == torch.bfloat16
        and not torch.compiler.is_compiling()
        and available()
    )


def is_watched(modules: Iterable[nn.Module]) -> bool:
    """Whether somebody hooks into one of them, and would not be called."""
    return any(
        m._forward_hooks or m._forward_pre_hooks or m._backward_hooks or m._backward_pre_hooks
        for m in modules
    )


def can_run(blocks: Sequence[Block], x: Tensor) -> bool:
    """Whether the kernel computes these blocks for a residual stream `(batch, seq, d_model)`.

    In training, in bfloat16, for the `qwen3` architecture, where nobody hooks into the blocks'
    modules, sizes are even and there are enough sequences for all threads.
    """
    if not computes_in_bfloat16(x):
        return False
    batch, seq, _ = x.shape
    threads = torch.get_num_threads()
    turns = -(-batch // threads)
    return (
        seq % 2 == 0
        and batch >= _BUSY * turns * threads
        and all(
            block.shape is not None
            and block.shape[3] <= LONGEST_ROW
            and not is_watched(block.parts)
            for block in blocks
        )
    )


def run(blocks: Sequence[Block], x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """The residual stream `(batch, seq, d_model)` after all blocks; see `can_run`.

    Args:
        blocks: their weights, contiguous, float32.
        x: the residual stream before them, float32.
        cosine, sine: rotary tables, `(seq, head_dim)`, bfloat16.
    """
    shape = blocks[0].shape
    assert shape is not None
    weights = [weight for block in blocks for weight in block.weights()]
    dropout = blocks[0].dropout if blocks[0].training else 0.0
    # Of one number for each block, whether a number is kept is counted out: the same both ways.
    seeds = torch.empty(len(blocks), dtype=torch.int64).random_().tolist() if dropout else None
    if not all(w.dtype == torch.float32 and w.is_contiguous() for w in weights):
        raise ValueError("the compiled blocks read contiguous weights of float32")
    out: Tensor = _RunBlocks.apply(  # type: ignore[no-untyped-call]
        x, cosine, sine, shape, dropout, seeds, *weights
    )
    return out


class _RunBlocks(Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        cosine: Tensor,
        sine: Tensor,
        shape: tuple[int, int, int, int, float],
        dropout: float,
        seeds: list[int] | None,
        *weights: Tensor,
    ) -> Tensor:
        kernels = _kernels()
        assert kernels is not None
        streams, kept = [x.contiguous()], []
        scratch = None
        for first in range(0, len(weights), len(_WEIGHTS)):
            call = _call(streams[-1], cosine, sine, shape, weights[first : first + len(_WEIGHTS)])
            if seeds is not None:
                call.dropout, call.seed = dropout, seeds[first // len(_WEIGHTS)]
            if scratch is None:
                scratch = _bytes(kernels.minitx_block_scratch(call, 0))
            streams.append(torch.empty_like(streams[-1]))
            kept.append(_bytes(kernels.minitx_block_kept(call)))
            call.out, call.kept = streams[-1].data_ptr(), kept[-1].data_ptr()
            call.scratch = scratch.data_ptr()
            if _running:
                call.seconds = ctypes.addressof(_running[-1].forward)
            kernels.minitx_block_forward(call)
        ctx.save_for_backward(cosine, sine, *streams[:-1], *kept, *weights)
        ctx.shape, ctx.dropout, ctx.seeds = shape, dropout, seeds
        return streams[-1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        kernels = _kernels()
        assert kernels is not None
        cosine, sine, *saved = ctx.saved_tensors
        n = len(saved) // (len(_WEIGHTS) + 2)
        streams, kept, all_weights = saved[:n], saved[n : 2 * n], saved[2 * n :]
        grad = grad.contiguous()
        scratch = None
        found: list[Tensor] = []
        for number in reversed(range(n)):
            weights = all_weights[number * len(_WEIGHTS) : (number + 1) * len(_WEIGHTS)]
            back = torch.empty_like(grad)
            by_heads = torch.empty(2, ctx.shape[2])
            by_weights = [torch.empty_like(weight) for weight in weights]
            by_weights[1:3] = by_heads.unbind(0)
            call = _call(streams[number], cosine, sine, ctx.shape, weights)
            if ctx.seeds is not None:
                call.dropout, call.seed = ctx.dropout, ctx.seeds[number]
            if scratch is None:
                scratch = _bytes(kernels.minitx_block_scratch(call, 1))
            call.kept, call.scratch = kept[number].data_ptr(), scratch.data_ptr()
            call.grad, call.back = grad.data_ptr(), back.data_ptr()
            for name, one in zip(
                _GRADIENTS, (by_weights[0], by_heads, *by_weights[3:]), strict=True
            ):
                setattr(call, f"by_{name}", one.data_ptr())
            if _running:
                call.seconds = ctypes.addressof(_running[-1].backward)
            kernels.minitx_block_backward(call)
            grad, found = back, by_weights + found
        return grad, None, None, None, None, None, *found


def _bytes(count: int) -> Tensor:
    return torch.empty(count, dtype=torch.uint8)


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
        batch, seq, heads, kv_heads, head_dim, d_model, d_ff, eps, 0.0, 0, torch.get_num_threads(),
        x.data_ptr(), *(weight.data_ptr() for weight in weights),
        cosine.data_ptr(), sine.data_ptr(),
    )  # fmt: skip
