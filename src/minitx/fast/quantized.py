"""Matrices as they are kept to be multiplied by one vector.

One token reads every weight once and does two operations with it, so its speed is that of reading
memory: what counts is how many bytes a weight takes, and in which order they lie.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

Array = npt.NDArray[Any]

_LARGEST_INT8 = 127
_INT8_COLUMNS = 32
_FBGEMM = "fbgemm"
_SHORTEST_BLOCK = 96


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
    """The weights as they are, in the order in which a product reads them fastest.

    A product adds up columns, each times its element of x. In float32 on x86 it is computed as
    what torch calls an embedding bag: a sum of weighted rows of a table, by a kernel that fetches
    rows ahead of their use. The table is the transposed matrix, cut into blocks of its columns
    for the threads to share. Elsewhere it is NumPy's product of the same matrix by columns.

    Args:
        weight: `(rows, columns)`, float32 or float64; copied.
    """

    def __init__(self, weight: Tensor) -> None:
        weight = weight.detach()
        rows, columns = weight.shape
        self.n_bytes = weight.numel() * weight.element_size()
        as_bag = weight.dtype == torch.float32 and _FBGEMM in _engines()
        self._blocks = _n_blocks(rows) if as_bag else None
        by_blocks = weight.view(self._blocks or 1, -1, columns).transpose(1, 2)
        self._table = by_blocks.contiguous().view(-1, rows // (self._blocks or 1))

    def bind(self, x: Array, out: Array) -> Callable[[], object]:
        """See `Matrix`."""
        if self._blocks is None:
            return functools.partial(np.dot, self._table.t().numpy(), x, out)
        columns, table = len(x), self._table
        source, into = torch.from_numpy(x), torch.from_numpy(out).view(self._blocks, -1)
        factors = table.new_empty(self._blocks, columns)
        flat = factors.view(-1)
        places = torch.arange(len(flat), dtype=torch.int32)
        starts = places[::columns].contiguous()

        def product() -> None:
            factors.copy_(source)
            into.copy_(torch.embedding_bag(table, places, starts, False, 0, False, flat)[0])

        return product


class Bfloat16Matrix:
    """Weights in bfloat16: half the bytes, 8 bits of precision.

    On x86 they are multiplied by FBGEMM's kernel for float16, which is the fastest with AVX2 and
    with AVX-512 alike, and takes the vector in float32. Float16 holds what bfloat16 does, but for
    what is below 2^-14 (kept to within 2^-25) or above 65,504 (then torch's kernel multiplies, as
    on other processors).

    Attributes:
        restored: the weights in float32, as they now are.
    """

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight.detach().to(torch.bfloat16)
        self.n_bytes = 2 * weight.numel()
        fits = float(self.restored.abs().max()) <= torch.finfo(torch.float16).max
        self._packed = None
        if fits and _FBGEMM in _engines():
            self._packed = torch.ops.quantized.linear_prepack_fp16(self.restored, None)

    @property
    def restored(self) -> Tensor:
        """The weights `(rows, columns)` in float32."""
        return self.weight.float()

    def bind(self, x: Array, out: Array) -> Callable[[], object]:
        """See `Matrix`; without FBGEMM, x and the result are rounded to bfloat16."""
        source, into = torch.from_numpy(x), torch.from_numpy(out)
        if self._packed is not None:
            row, into_row, packed = source[None], into[None], self._packed
            multiply = torch.ops.quantized.linear_dynamic_fp16.default

            def packed_product() -> None:
                into_row.copy_(multiply(row, packed))

            return packed_product
        rounded, result = self.weight.new_empty(len(x)), self.weight.new_empty(len(out))

        def product() -> None:
            rounded.copy_(source)
            into.copy_(torch.mv(self.weight, rounded, out=result))

        return product


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


def _n_blocks(rows: int) -> int:
    # Two for each thread, as far as each has whole vectors and is long enough to be read fast.
    blocks = 1
    while blocks < 2 * torch.get_num_threads() and rows % (32 * blocks) == 0:
        if rows // (2 * blocks) < _SHORTEST_BLOCK:
            break
        blocks *= 2
    return blocks


@functools.cache
def _engines() -> frozenset[str]:
    return frozenset(torch.backends.quantized.supported_engines)
