"""The loss of each row of logits and its gradient, in one kernel for a GPU.

The logits are read twice and the gradient is written over them. One program takes a row with all
the threads that it can have: so few rows are under way at once that the second reading finds its
row in the GPU's cache, and the memory is left with one reading and one writing.

Imported only where there is Triton, which comes with torch for CUDA.
"""

from __future__ import annotations

import triton  # type: ignore[import-not-found,unused-ignore]
import triton.language as tl  # type: ignore[import-not-found,unused-ignore]
from torch import Tensor, empty_like

BLOCK = 8192
"""Logits that a program reads at once: 16 bytes for each of its threads."""

WARPS = 32


def loss_and_gradient(logits: Tensor, targets: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
    """As `torch_compile.loss_and_gradient`, of int64 targets.

    The gradient is where the logits were, whose rows are contiguous.
    """
    losses = empty_like(shares)
    n_rows, vocab = logits.shape
    _row[(n_rows,)](
        logits, targets, shares, losses, vocab, logits.stride(0), BLOCK=BLOCK, num_warps=WARPS
    )
    return losses, logits


@triton.jit  # type: ignore[untyped-decorator]
def _row(  # type: ignore[no-untyped-def]
    logits,
    targets,
    shares,
    losses,
    vocab: tl.constexpr,
    stride,
    BLOCK: tl.constexpr,  # noqa: N803
):
    row = tl.program_id(0).to(tl.int64)
    logits += row * stride
    share = tl.load(shares + row)
    target = tl.load(targets + row)
    found = tl.load(logits + target, mask=share > 0, other=0.0).to(tl.float32)
    columns = tl.arange(0, BLOCK)
    # Each lane keeps the largest that it saw, and the sum of exponentials below that.
    largest = tl.full((BLOCK,), -1e30, tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, vocab, BLOCK):
        inside = start + columns < vocab
        x = tl.load(logits + start + columns, mask=inside, other=-1e30).to(tl.float32)
        larger = tl.maximum(largest, x)
        total = total * tl.exp(largest - larger) + tl.where(inside, tl.exp(x - larger), 0.0)
        largest = larger
    top = tl.max(largest, 0)
    log_sum = top + tl.log(tl.sum(total * tl.exp(largest - top), 0))
    tl.store(losses + row, tl.where(share > 0, (log_sum - found) * share, 0.0))
    # All threads have read the target's logit before one of them writes over it.
    tl.debug_barrier()
    for start in range(0, vocab, BLOCK):
        inside = start + columns < vocab
        x = tl.load(logits + start + columns, mask=inside, other=-1e30).to(tl.float32)
        gradient = tl.exp(x - log_sum) - tl.where(start + columns == target, 1.0, 0.0)
        tl.store(
            logits + start + columns,
            (gradient * share).to(logits.dtype.element_ty),
            mask=inside,
        )
