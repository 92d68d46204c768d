"""The compiled kernels of the optimizers: one call for all tensors.

The formulas stand in `minitx.training.optimizers`, which calls these where `support` says so.
Only the norms are sums, each formed by one thread in a fixed order; all else is done to each number
by itself. So the numbers do not depend on how many threads share the work.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from minitx.fast.library import as_c, call, loaded_kernels
from minitx.fast.support import can_orthogonalize, can_update

__all__ = [
    "Section", "adamw", "can_orthogonalize", "can_update", "muon_ahead", "muon_apply", "norms",
    "orthogonalize", "scale",
]  # fmt: skip

_FLOAT_BYTES = 4


def _sizes(tensors: Sequence[Tensor]) -> list[int]:
    return [t.numel() for t in tensors]


def norms(tensors: Sequence[Tensor]) -> Tensor:
    """The norm of each tensor, `(tensors,)` float32."""
    sizes = torch.empty(len(tensors))
    call("norms", len(tensors), tensors, _sizes(tensors), sizes)
    return sizes


def scale(tensors: Sequence[Tensor], factor: float) -> None:
    """Multiply all of them in place."""
    call("scale", len(tensors), tensors, _sizes(tensors), factor)
    increment_version(tensors)


def adamw(
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    firsts: Sequence[Tensor],
    seconds: Sequence[Tensor],
    steps: Sequence[Tensor],
    *,
    rate: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
) -> None:
    """AdamW's update of all parameters, moments and step counts, in place."""
    call(
        "adamw", len(parameters), parameters, gradients, firsts, seconds, steps,
        _sizes(parameters), rate, *betas, eps, weight_decay,
    )  # fmt: skip
    increment_version(parameters)


class Section(NamedTuple):
    """Some rows of a matrix of float32: which matrix, the first of the rows, and how many."""

    matrix: int
    row: int
    rows: int
    columns: int


def _starts(sections: Sequence[Section], matrices: Sequence[Tensor]) -> list[int]:
    begins = [matrix.data_ptr() for matrix in matrices]
    return [begins[s.matrix] + s.row * s.columns * _FLOAT_BYTES for s in sections]


def _section_sizes(sections: Sequence[Section]) -> list[int]:
    return [s.rows * s.columns for s in sections]


def muon_ahead(
    sections: Sequence[Section],
    gradients: Sequence[Tensor],
    momenta: Sequence[Tensor],
    ahead: Sequence[Tensor],
    momentum: float,
) -> None:
    """Muon's momenta, in place, and the look ahead from them into `ahead`, in its format.

    Args:
        sections: of the gradients and momenta, which are contiguous float32.
        ahead: one for each section, of its shape, all float32 or all bfloat16.
        momentum: decay of the running gradient.
    """
    call(
        "muon_ahead", len(sections), _starts(sections, gradients), _starts(sections, momenta),
        ahead, ahead[0].dtype, _section_sizes(sections), momentum,
    )  # fmt: skip


def muon_apply(
    sections: Sequence[Section],
    parameters: Sequence[Tensor],
    updates: Sequence[Tensor],
    rates: Sequence[float],
    keep: float,
) -> None:
    """parameter * keep - rate * update, in place.

    Args:
        sections: of the parameters, which are contiguous float32.
        updates, rates: one for each section; updates of its shape, all float32 or all bfloat16.
        keep: what weight decay leaves.
    """
    call(
        "muon_apply", len(sections), _starts(sections, parameters), updates, updates[0].dtype,
        _section_sizes(sections), rates, keep,
    )  # fmt: skip
    increment_version(parameters)


def orthogonalize(
    matrices: Sequence[Tensor],
    polynomials: Sequence[tuple[float, float, float]],
    safety: float,
) -> None:
    """`muon.orthogonalize` of each contiguous matrix, in place; see `can_orthogonalize`.

    Args:
        polynomials: coefficients of x, x^3 and x^5.
        safety: by how much the bound on the singular values is widened.
    """
    n = len(matrices)
    threads = min(torch.get_num_threads(), n)
    rows, columns = [m.size(0) for m in matrices], [m.size(1) for m in matrices]
    flat = [number for coefficients in polynomials for number in coefficients]
    own = loaded_kernels().minitx_orthogonalize_scratch(n, as_c(rows), as_c(columns))
    scratch = torch.empty(threads * own, dtype=torch.uint8)
    call(
        "orthogonalize", n, matrices, rows, columns, flat, len(polynomials), safety, scratch,
        threads=threads,
    )  # fmt: skip
