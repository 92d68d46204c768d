"""The compiled kernels of a layer's arithmetic, called with tensors: nothing here takes gradients.

`layers` makes autograd functions of them. A kernel reads contiguous tensors of float32 or bfloat16
on the CPU, and computes in float32. Sums over rows are formed in slices of fixed size, so the
numbers do not depend on how many threads share the work.
"""

from __future__ import annotations

import ctypes
import functools

import torch
from torch import Tensor

from minitx.fast.library import Arguments, declare, library

_SLICE = 64  # as SLICE in rows.h

_POINTER, _LONG, _INT, _FLOAT = ctypes.c_void_p, ctypes.c_long, ctypes.c_int, ctypes.c_float
_ATTENTION = [_POINTER, _INT, *[_POINTER] * 4, _FLOAT, *[_LONG] * 5]
_ARGUMENTS: Arguments = {
    "norm_forward": [
        _POINTER, _INT, _POINTER, _FLOAT, *[_LONG] * 2, *[_POINTER] * 2, _INT, _POINTER, _INT,
    ],
    "norm_backward": [
        *[_POINTER] * 2, _INT, *[_POINTER] * 2, *[_LONG] * 2, _POINTER, _INT, *[_POINTER] * 2, _INT,
    ],
    "swiglu_forward": [_POINTER, _INT, _LONG, _LONG, _POINTER, _INT],
    "swiglu_backward": [_POINTER, _POINTER, _INT, _LONG, _LONG, _POINTER, _INT],
    "loss_forward": [
        _POINTER, _INT, _POINTER, ctypes.c_int64, _LONG, _LONG, _POINTER, _POINTER, _POINTER, _INT,
    ],
    "loss_backward": [
        _POINTER, _INT, _POINTER, ctypes.c_int64, _LONG, _LONG, *[_POINTER] * 4, _INT,
    ],
    "attention_scratch": [_LONG, _LONG],
    "attention_forward": [*_ATTENTION, *[_POINTER] * 3, _INT],
    "attention_backward": [*_ATTENTION, *[_POINTER] * 7, _INT],
}  # fmt: skip


@functools.cache
def _kernels() -> ctypes.CDLL:
    return declare(library(), _ARGUMENTS, loss_forward=_LONG, attention_scratch=_LONG)


def _half(dtype: torch.dtype) -> int:
    return int(dtype == torch.bfloat16)


def norm_forward(
    x: Tensor, gain: Tensor, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """RMSNorm of `(..., width)`.

    Returns:
        The normed rows and, for the backward pass, the rows before the gain, both in `dtype`, and
        what each row was multiplied with, `(rows,)` float32.
    """
    width = x.size(-1)
    rows = x.numel() // width
    out = torch.empty(x.shape, dtype=dtype)
    unit = torch.empty(x.shape, dtype=dtype)
    scales = torch.empty(rows)
    _kernels().minitx_norm_forward(
        x.data_ptr(), _half(x.dtype), gain.data_ptr(), eps, rows, width,
        out.data_ptr(), unit.data_ptr(), _half(dtype), scales.data_ptr(), torch.get_num_threads(),
    )  # fmt: skip
    return out, unit, scales


def norm_backward(
    grad: Tensor, unit: Tensor, scales: Tensor, gain: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Gradients of the rows, in `dtype`, and of the gain."""
    width = unit.size(-1)
    rows = unit.numel() // width
    grad_input = torch.empty(unit.shape, dtype=dtype)
    grad_gain = torch.empty_like(gain)
    partial = torch.empty(-(-rows // _SLICE), width)
    _kernels().minitx_norm_backward(
        grad.data_ptr(), unit.data_ptr(), _half(unit.dtype), scales.data_ptr(), gain.data_ptr(),
        rows, width, grad_input.data_ptr(), _half(dtype), grad_gain.data_ptr(), partial.data_ptr(),
        torch.get_num_threads(),
    )  # fmt: skip
    return grad_input, grad_gain


def swiglu_forward(gate_up: Tensor) -> Tensor:
    """silu(gate) * up of the halves of `(..., 2 * width)`: `(..., width)`."""
    width = gate_up.size(-1) // 2
    out = torch.empty((*gate_up.shape[:-1], width), dtype=gate_up.dtype)
    _kernels().minitx_swiglu_forward(
        gate_up.data_ptr(), _half(gate_up.dtype), out.numel() // width, width, out.data_ptr(),
        torch.get_num_threads(),
    )  # fmt: skip
    return out


def swiglu_backward(grad: Tensor, gate_up: Tensor) -> Tensor:
    """The gradient of `gate_up`."""
    width = gate_up.size(-1) // 2
    grad_input = torch.empty_like(gate_up)
    _kernels().minitx_swiglu_backward(
        grad.data_ptr(), gate_up.data_ptr(), _half(gate_up.dtype), grad.numel() // width, width,
        grad_input.data_ptr(), torch.get_num_threads(),
    )  # fmt: skip
    return grad_input


def loss_forward(logits: Tensor, targets: Tensor, ignored: int) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy of `(rows, vocab)` over the targets, `(rows,)` int64, not `ignored`.

    Returns:
        The mean and the number of targets that count, `(2,)`, and for the backward pass the
        logarithm of each row's sum, `(rows,)`, both float32.

    Raises:
        IndexError: a target is no token.
    """
    rows, vocab = logits.shape
    log_sums, losses, mean_and_count = torch.empty(rows), torch.empty(rows), torch.empty(2)
    wrong = _kernels().minitx_loss_forward(
        logits.data_ptr(), _half(logits.dtype), targets.data_ptr(), ignored, rows, vocab,
        log_sums.data_ptr(), losses.data_ptr(), mean_and_count.data_ptr(),
        torch.get_num_threads(),
    )  # fmt: skip
    if wrong:
        raise IndexError(f"{wrong:,} targets are not among the {vocab:,} tokens")
    return mean_and_count, log_sums


def loss_backward(
    grad: Tensor,
    logits: Tensor,
    targets: Tensor,
    ignored: int,
    mean_and_count: Tensor,
    log_sums: Tensor,
) -> Tensor:
    """The gradient of the logits; `grad` is a float32 scalar."""
    grad_input = torch.empty_like(logits)
    _kernels().minitx_loss_backward(
        logits.data_ptr(), _half(logits.dtype), targets.data_ptr(), ignored, *logits.shape,
        log_sums.data_ptr(), mean_and_count.data_ptr(), grad.data_ptr(), grad_input.data_ptr(),
        torch.get_num_threads(),
    )  # fmt: skip
    return grad_input


class CausalAttention:
    """Attention over the projection of one shape; see `layers.attend`.

    Args:
        sizes: heads, key/value heads, and the eps of the norm.
        qkv: `(batch, seq, (heads + 2 * kv_heads) * head_dim)`.
        tables_and_gains: cosine and sine, `(seq, head_dim)` in the format of qkv, then the gains
            of queries and keys, `(head_dim,)`; four times None: neither norm nor rotation.
    """

    def __init__(
        self, sizes: tuple[int, int, float], qkv: Tensor, *tables_and_gains: Tensor | None
    ) -> None:
        heads, kv_heads, eps = sizes
        batch, seq, width = qkv.shape
        self._like = qkv
        self._shape = (batch, seq, heads, kv_heads, width // (heads + 2 * kv_heads))
        self._threads = torch.get_num_threads()
        self._given = (
            qkv.data_ptr(), _half(qkv.dtype),
            *(0 if t is None else t.data_ptr() for t in tables_and_gains), eps, *self._shape,
        )  # fmt: skip
        per_thread = _kernels().minitx_attention_scratch(seq, self._shape[-1])
        self._scratch = torch.empty(self._threads * per_thread)

    def forward(self) -> tuple[Tensor, Tensor]:
        """The heads' outputs `(batch, seq, heads * head_dim)`; the logarithms of the sums of
        their weights, `(batch, heads, seq)` float32.
        """
        batch, seq, heads, _, head_dim = self._shape
        out = torch.empty((batch, seq, heads * head_dim), dtype=self._like.dtype)
        log_sums = torch.empty(batch, heads, seq)
        _kernels().minitx_attention_forward(
            *self._given, out.data_ptr(), log_sums.data_ptr(), self._scratch.data_ptr(),
            self._threads,
        )  # fmt: skip
        return out, log_sums

    def backward(self, grad: Tensor, out: Tensor, log_sums: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of qkv, and of the gains, `(2, head_dim)`."""
        batch, _, _, kv_heads, head_dim = self._shape
        grad_input = torch.empty_like(self._like)
        grad_gains = torch.empty(2, head_dim)
        partial = torch.empty(batch * kv_heads, 2 * head_dim)
        _kernels().minitx_attention_backward(
            *self._given, out.data_ptr(), log_sums.data_ptr(), grad.data_ptr(),
            grad_input.data_ptr(), grad_gains.data_ptr(), partial.data_ptr(),
            self._scratch.data_ptr(), self._threads,
        )  # fmt: skip
        return grad_input, grad_gains
