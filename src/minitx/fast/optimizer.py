"""The compiled kernels of the optimizers: one call for all tensors.

The formulas stand in `minitx.training.optimizers`, which calls these where `support` says so.
Only the norms are sums, each formed by one thread in a fixed order; all else is done to each number
by itself. So the numbers do not depend on how many threads share the work.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from minitx.fast.library import declare, library
from minitx.fast.support import can_orthogonalize, can_update

__all__ = [
    "Section", "adamw", "can_orthogonalize", "can_update", "muon_ahead", "muon_apply", "norms",
    "orthogonalize", "scale",
]  # fmt: skip

_LONG, _INT, _FLOAT, _DOUBLE = ctypes.c_long, ctypes.c_int, ctypes.c_float, ctypes.c_double
_POINTER = ctypes.c_void_p
_FLOAT_BYTES = 4
_ARGUMENTS = {
    "norms": [_LONG, *[_POINTER] * 3, _INT],
    "scale": [_LONG, *[_POINTER] * 2, _FLOAT, _INT],
    "adamw": [_LONG, *[_POINTER] * 6, *[_DOUBLE] * 5, _INT],
    "muon_ahead": [_LONG, *[_POINTER] * 3, _INT, _POINTER, _FLOAT, _INT],
    "muon_apply": [_LONG, *[_POINTER] * 2, _INT, *[_POINTER] * 2, _FLOAT, _INT],
    "orthogonalize": [_LONG, *[_POINTER] * 4, _LONG, _FLOAT, _POINTER, _INT],
    "orthogonalize_scratch": [_LONG, *[_POINTER] * 2],
}


@functools.cache
def _kernels() -> ctypes.CDLL:
    return declare(library(), _ARGUMENTS, orthogonalize_scratch=_LONG)


def _pointers(tensors: Sequence[Tensor]) -> ctypes.Array[ctypes.c_void_p]:
    return (_POINTER * len(tensors))(*[t.data_ptr() for t in tensors])


def _integers(numbers: Sequence[int]) -> ctypes.Array[ctypes.c_int64]:
    return (ctypes.c_int64 * len(numbers))(*numbers)


def _sizes(tensors: Sequence[Tensor]) -> ctypes.Array[ctypes.c_int64]:
    return _integers([t.numel() for t in tensors])


def norms(tensors: Sequence[Tensor]) -> Tensor:
    """The norm of each tensor, `(tensors,)` float32."""
    sizes = torch.empty(len(tensors))
    _kernels().minitx_norms(
        len(tensors), _pointers(tensors), _sizes(tensors), sizes.data_ptr(),
        torch.get_num_threads(),
    )  # fmt: skip
    return sizes


def scale(tensors: Sequence[Tensor], factor: float) -> None:
    """Multiply all of them in place."""
    _kernels().minitx_scale(
        len(tensors), _pointers(tensors), _sizes(tensors), factor, torch.get_num_threads()
    )
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
    _kernels().minitx_adamw(
        len(parameters), _pointers(parameters), _pointers(gradients), _pointers(firsts),
        _pointers(seconds), _pointers(steps), _sizes(parameters), rate, *betas, eps, weight_decay,
        torch.get_num_threads(),
    )  # fmt: skip
    increment_version(parameters)


class Section(NamedTuple):
    """Some rows of a matrix of float32: which matrix, the first of the rows, and how many."""

    matrix: int
    row: int
    rows: int
    columns: int


def _starts(
    sections: Sequence[Section], matrices: Sequence[Tensor]
) -> ctypes.Array[ctypes.c_void_p]:
    begins = [matrix.data_ptr() for matrix in matrices]
    return (_POINTER * len(sections))(
        *[begins[s.matrix] + s.row * s.columns * _FLOAT_BYTES for s in sections]
    )


def _section_sizes(sections: Sequence[Section]) -> ctypes.Array[ctypes.c_int64]:
    return _integers([s.rows * s.columns for s in sections])


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
    _kernels().minitx_muon_ahead(
        len(sections), _starts(sections, gradients), _starts(sections, momenta), _pointers(ahead),
        int(ahead[0].dtype == torch.bfloat16), _section_sizes(sections), momentum,
        torch.get_num_threads(),
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
    _kernels().minitx_muon_apply(
        len(sections), _starts(sections, parameters), _pointers(updates),
        int(updates[0].dtype == torch.bfloat16), _section_sizes(sections),
        (ctypes.c_float * len(rates))(*rates), keep, torch.get_num_threads(),
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
    n, threads = len(matrices), min(torch.get_num_threads(), len(matrices))
    rows = _integers([m.size(0) for m in matrices])
    columns = _integers([m.size(1) for m in matrices])
    flat = [number for coefficients in polynomials for number in coefficients]
    own = _kernels().minitx_orthogonalize_scratch(n, rows, columns)
    scratch = torch.empty(threads * own, dtype=torch.uint8)
    _kernels().minitx_orthogonalize(
        n, _pointers(matrices), rows, columns, (ctypes.c_float * len(flat))(*flat),
        len(polynomials), safety, scratch.data_ptr(), threads,
    )  # fmt: skip
