"""The compiled kernels of a layer's arithmetic, called with tensors: nothing here takes gradients.

`layers` makes autograd functions of them. A kernel reads contiguous tensors of float32 or bfloat16
on the CPU, and computes in float32. Sums over rows are formed in slices of fixed size, so the
numbers do not depend on how many threads share the work.
"""

from __future__ import annotations

import torch
from torch import Tensor

from minitx.fast.library import call, training_kernels

_SLICE = 64  # as SLICE in rows.h


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
    call("norm_forward", x, x.dtype, gain, eps, rows, width, out, unit, dtype, scales)
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
    call(
        "norm_backward", grad, unit, unit.dtype, scales, gain, rows, width, grad_input, dtype,
        grad_gain, partial,
    )  # fmt: skip
    return grad_input, grad_gain


def swiglu_forward(gate_up: Tensor) -> Tensor:
    """silu(gate) * up of the halves of `(..., 2 * width)`: `(..., width)`."""
    width = gate_up.size(-1) // 2
    out = torch.empty((*gate_up.shape[:-1], width), dtype=gate_up.dtype)
    call("swiglu_forward", gate_up, gate_up.dtype, out.numel() // width, width, out)
    return out


def swiglu_backward(grad: Tensor, gate_up: Tensor) -> Tensor:
    """The gradient of `gate_up`."""
    width = gate_up.size(-1) // 2
    grad_input = torch.empty_like(gate_up)
    rows = grad.numel() // width
    call("swiglu_backward", grad, gate_up, gate_up.dtype, rows, width, grad_input)
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
    wrong = call(
        "loss_forward", logits, logits.dtype, targets, ignored, rows, vocab, log_sums, losses,
        mean_and_count,
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
    call(
        "loss_backward", logits, logits.dtype, targets, ignored, *logits.shape, log_sums,
        mean_and_count, grad, grad_input,
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
        self._given = (qkv, qkv.dtype, *tables_and_gains, eps, *self._shape)
        per_thread = training_kernels().minitx_attention_scratch(seq, self._shape[-1])
        self._scratch = torch.empty(torch.get_num_threads() * per_thread)

    def forward(self) -> tuple[Tensor, Tensor]:
        """The heads' outputs `(batch, seq, heads * head_dim)`; the logarithms of the sums of
        their weights, `(batch, heads, seq)` float32.
        """
        batch, seq, heads, _, head_dim = self._shape
        out = torch.empty((batch, seq, heads * head_dim), dtype=self._like.dtype)
        log_sums = torch.empty(batch, heads, seq)
        call("attention_forward", *self._given, out, log_sums, self._scratch)
        return out, log_sums

    def backward(self, grad: Tensor, out: Tensor, log_sums: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of qkv, and of the gains, `(2, head_dim)`."""
        batch, _, _, kv_heads, head_dim = self._shape
        grad_input = torch.empty_like(self._like)
        grad_gains = torch.empty(2, head_dim)
        partial = torch.empty(batch * kv_heads, 2 * head_dim)
        call(
            "attention_backward", *self._given, out, log_sums, grad, grad_input, grad_gains,
            partial, self._scratch,
        )  # fmt: skip
        return grad_input, grad_gains
