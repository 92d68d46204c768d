"""The compiled kernels of the optimizers: one call for all tensors.

The formulas stand in `minitx.training.optimizers`, which calls these where `support` says so.
Each sum is formed by one thread in a fixed order, and so are Muon's products of a matrix; all else
is done to each number by itself. So the numbers do not depend on how many threads share the work.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from minitx.fast.library import as_c, call, has_bfloat16_products, loaded_kernels
from minitx.fast.support import can_update

__all__ = ["adamw", "can_update", "muon", "norms", "scale"]

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
    weight_decays: Sequence[float],
) -> None:
    """AdamW's update of all parameters, moments and step counts, in place; each has a decay."""
    call(
        "adamw", len(parameters), parameters, gradients, firsts, seconds, steps,
        _sizes(parameters), rate, *betas, eps, weight_decays,
    )  # fmt: skip
    increment_version(parameters)


Section = tuple[int, int, int, int]
"""Some rows of a matrix of float32: which matrix, the first of the rows, how many, and columns."""


def _starts(sections: Sequence[Section], matrices: Sequence[Tensor]) -> list[int]:
    begins = [matrix.data_ptr() for matrix in matrices]
    return [begins[matrix] + row * columns * _FLOAT_BYTES for matrix, row, _, columns in sections]


def muon(
    sections: Sequence[Section],
    gradients: Sequence[Tensor],
    momenta: Sequence[Tensor],
    parameters: Sequence[Tensor],
    rates: Sequence[float],
    *,
    momentum: float,
    keep: float,
    polynomials: Sequence[tuple[float, float, float]],
    safety: float,
    dtype: torch.dtype,
) -> None:
    """Muon's step: the momenta and parameters of all sections, in place.

    Args:
        sections: of the gradients, momenta and parameters, which are contiguous float32. Each is
            one thread's, which takes the next when it is done: the largest should come first.
        rates: one for each section.
        momentum: decay of the running gradient.
        keep: what weight decay leaves of the parameters.
        polynomials: coefficients of x, x^3 and x^5, as `muon.orthogonalize` applies them.
        safety: by how much the bound on the singular values is widened.
        dtype: of the products; bfloat16 becomes float32 where the processor does not multiply it.
    """
    n = len(sections)
    threads = min(torch.get_num_threads(), n)
    products = "bfloat16" if dtype == torch.bfloat16 and has_bfloat16_products() else "float32"
    rows, columns = (as_c([section[i] for section in sections]) for i in (2, 3))
    own = getattr(loaded_kernels(), f"minitx_muon_scratch_{products}")(n, rows, columns)
    scratch = torch.empty(threads * own, dtype=torch.uint8)
    flat = [number for coefficients in polynomials for number in coefficients]
    call(
        f"muon_{products}", n, _starts(sections, gradients), _starts(sections, momenta),
        _starts(sections, parameters), rows, columns, rates, momentum, keep, flat,
        len(polynomials), safety, scratch, threads=threads,
    )  # fmt: skip
    increment_version(parameters)
