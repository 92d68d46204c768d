"""Matrices as they are kept to be multiplied by one vector.

One token reads every weight once and does two operations with it, so its speed is that of reading
memory: what counts is how many bytes a weight takes, and in which order they lie.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from minitx.config.checks import require_one_of
from minitx.config.weights import WEIGHT_FORMATS, WeightFormat

if TYPE_CHECKING:
    from minitx.model.transformer import Transformer

Array = npt.NDArray[Any]

_LARGEST_INT8 = 127
_INT8_COLUMNS = 32
_MUCH_FASTER = 2.0
_BYTES_TO_TIME = 1 << 26


class Matrix(Protocol):
    """A matrix `(rows, columns)` to be multiplied by vectors.

    Attributes:
        n_bytes: that a product reads.
    """

    n_bytes: int

    def bind(self, x: Array, out: Array) -> Callable[[], object]:
        """Get a product ready, so that nothing but the product is done when it is called.

        Args:
            x: `(columns,)`, read at each call.
            out: `(rows,)`, overwritten with matrix @ x at each call.
        """


class DenseMatrix:
    """The weights as they are, by columns: a product adds columns up, which are long.

    Args:
        weight: `(rows, columns)`, float32 or float64. Its columns lie together in memory, or it
            is copied so that they do.
        by_numpy: multiply with NumPy's BLAS; with torch's otherwise.
    """

    def __init__(self, weight: Tensor, by_numpy: bool = True) -> None:
        by_columns = weight.detach().t().contiguous().t()
        self.n_bytes = weight.numel() * weight.element_size()
        self._weight, self._by_numpy = by_columns, by_numpy

    def bind(self, x: Array, out: Array) -> Callable[[], object]:
        """See `Matrix`."""
        if self._by_numpy:
            return functools.partial(np.dot, self._weight.numpy(), x, out)
        into = torch.from_numpy(out)
        return functools.partial(
            torch.addmv, into, self._weight, torch.from_numpy(x), beta=0, out=into
        )


class Bfloat16Matrix:
    """Weights in bfloat16: half the bytes, 8 bits of precision.

    Attributes:
        restored: the weights in float32, as they now are.
    """

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight.detach().to(torch.bfloat16)
        self.n_bytes = 2 * weight.numel()
        self._packed = _packed(self.weight)

    @property
    def restored(self) -> Tensor:
        """The weights `(rows, columns)` in float32."""
        return self.weight.float()

    def bind(self, x: Array, out: Array) -> Callable[[], object]:
        """See `Matrix`; x and the result are rounded to bfloat16."""
        source, into = torch.from_numpy(x), torch.from_numpy(out)
        rounded, result = self.weight.new_empty(len(x)), self.weight.new_empty(len(out))

        def product() -> None:
            rounded.copy_(source)
            into.copy_(torch.mv(self.weight, rounded, out=result))

        if self._packed is None:
            return product
        packed, row, into_row = self._packed, rounded[None], into[None]
        multiply = torch.ops.mkldnn._linear_pointwise.default

        def packed_product() -> None:
            rounded.copy_(source)
            into_row.copy_(multiply(row, packed, None, "none", [], ""))

        return packed_product


class Int8Matrix:
    """Weights in 8 bits, with a scale for each row: weight = integer * scale, no zero point.

    Each row's largest weight becomes 127 (Dettmers et al. 2022, LLM.int8(), section 2, absmax).

    Attributes:
        integers: `(rows, columns)` int8.
        scale: `(rows,)` bfloat16.
    """

    def __init__(self, weight: Tensor) -> None:
        weight = weight.detach().float()
        # The kernel reads scales in bfloat16, so the integers are made for those.
        scale = weight.abs().amax(dim=1).div(_LARGEST_INT8).clamp(min=1e-30).to(torch.bfloat16)
        integers = (weight / scale.float()[:, None]).round().clamp(-_LARGEST_INT8, _LARGEST_INT8)
        # The kernel reads whole vectors of columns, also past the last one.
        padding = -weight.size(1) % _INT8_COLUMNS
        self._padded = F.pad(integers, (0, padding)).to(torch.int8).contiguous()
        self.integers, self.scale = self._padded[:, : weight.size(1)], scale
        self.n_bytes = self._padded.numel() + 2 * len(scale)

    @property
    def restored(self) -> Tensor:
        """The weights `(rows, columns)` in float32."""
        return self.integers.float() * self.scale.float()[:, None]

    def bind(self, x: Array, out: Array) -> Callable[[], object]:
        """See `Matrix`; x and the result are rounded to bfloat16."""
        source, into = torch.from_numpy(x), torch.from_numpy(out)[None]
        row = self.scale.new_zeros(1, self._padded.size(1))
        rounded, weights, scale = row[0, : len(x)], self._padded, self.scale
        multiply = torch.ops.aten._weight_int8pack_mm.default

        def product() -> None:
            rounded.copy_(source)
            into.copy_(multiply(row, weights, scale))

        return product


def dense_matrices(weights: Sequence[Tensor]) -> list[DenseMatrix]:
    """Copy weights into one block of memory, in the order in which a token reads them.

    They are multiplied by NumPy's BLAS, unless torch's is measured to be at least twice as fast
    here: a choice that takes a few milliseconds, and that noise does not turn, so that the same
    seed gives the same text.
    """
    block = torch.empty(sum(weight.numel() for weight in weights), dtype=weights[0].dtype)
    copies, start = [], 0
    for weight in weights:
        rows, columns = weight.shape
        copy = block[start : start + weight.numel()].view(columns, rows).t()
        copies.append(copy.copy_(weight.detach()))
        start += weight.numel()
    by_numpy = _seconds(copies, True) < _MUCH_FASTER * _seconds(copies, False)
    return [DenseMatrix(copy, by_numpy) for copy in copies]


def _seconds(weights: Sequence[Tensor], by_numpy: bool) -> float:
    # The best of three readings of them, or of as many as a processor's cache may not hold.
    products, n_bytes = [], 0
    for weight in weights:
        matrix = DenseMatrix(weight, by_numpy)
        x, out = (weight.new_zeros(size).numpy() for size in reversed(weight.shape))
        products.append(matrix.bind(x, out))
        n_bytes += matrix.n_bytes
        if n_bytes > _BYTES_TO_TIME:
            break
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        for product in products:
            product()
        best = min(best, time.perf_counter() - start)
    return best


def _packed(weight: Tensor) -> Tensor | None:
    # In the order of oneDNN's kernels, which are faster than torch's where the processor has
    # AVX-512; None where it refuses, or this torch lacks them.
    try:
        packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, 1)
    except (AttributeError, RuntimeError):
        return None
    return packed


def store_weights(model: Transformer, weight_format: WeightFormat | str) -> None:
    """Round all matrices of a model, the head among them, to fewer bits.

    The model computes with the rounded values from now on, in its own number format; where it
    reads one token at a time it reads them in the small one.

    Args:
        model: changed in place; on the CPU, in float32.
        weight_format: `bfloat16` or `int8`.

    Raises:
        BadInputError: there is no such format.
    """
    require_one_of("quantize", weight_format, WEIGHT_FORMATS)
    kind = Bfloat16Matrix if weight_format == "bfloat16" else Int8Matrix
    matrices: dict[str, Tensor] = {name: one for name, one, _ in model.matrix_parameters()}
    matrices["head.weight"] = model.head.weight
    for name, weight in matrices.items():
        stored = kind(weight)
        with torch.no_grad():
            weight.copy_(stored.restored)
        model.stored_matrices[name] = stored
