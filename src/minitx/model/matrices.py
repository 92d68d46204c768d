"""Matrices as they are kept to be multiplied by one vector.

One token reads every weight once and does two operations with it, so its speed is that of reading
memory: what counts is how many bytes a weight takes, and in which order they lie.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from minitx.config.checks import require_one_of
from minitx.config.weights import WEIGHT_FORMATS, WeightFormat

if TYPE_CHECKING:
    from minitx.model.transformer import Transformer

_LARGEST_INT8 = 127


class Matrix(Protocol):
    """A matrix `(rows, columns)` times a vector.

    Attributes:
        n_bytes: that a product reads.
    """

    n_bytes: int

    def product(self, x: Tensor, out: Tensor, scale: float = 1.0) -> None:
        """Write scale * matrix @ x, `(columns,)` to `(rows,)`, over `out`."""

    def accumulate(self, x: Tensor, into: Tensor) -> None:
        """Add matrix @ x to `into`."""


class DenseMatrix:
    """The weights as they are, in an order in which a product reads them fastest.

    A matrix with more rows than columns is copied so that its columns lie together: measured by
    ``bench/generation.py``, the usual kernels are up to three times as fast on it.
    """

    def __init__(self, weight: Tensor) -> None:
        weight = weight.detach()
        wide = weight.size(0) > weight.size(1)
        self.weight = weight.t().contiguous().t() if wide else weight
        self.n_bytes = weight.numel() * weight.element_size()

    def product(self, x: Tensor, out: Tensor, scale: float = 1.0) -> None:
        """See `Matrix`."""
        torch.addmv(out, self.weight, x, beta=0, alpha=scale, out=out)

    def accumulate(self, x: Tensor, into: Tensor) -> None:
        """See `Matrix`."""
        into.addmv_(self.weight, x)


class Bfloat16Matrix:
    """Weights in bfloat16: half the bytes, 8 bits of precision.

    Attributes:
        restored: the weights in float32, as they now are.
    """

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight.detach().to(torch.bfloat16)
        self.n_bytes = 2 * weight.numel()
        self._x = self.weight.new_empty(weight.size(1))
        self._y = self.weight.new_empty(weight.size(0))

    @property
    def restored(self) -> Tensor:
        """The weights `(rows, columns)` in float32."""
        return self.weight.float()

    def product(self, x: Tensor, out: Tensor, scale: float = 1.0) -> None:
        """See `Matrix`; x and the result are rounded to bfloat16."""
        out.copy_(self._times(x))
        if scale != 1.0:
            out.mul_(scale)

    def accumulate(self, x: Tensor, into: Tensor) -> None:
        """See `Matrix`; x and the product are rounded to bfloat16."""
        into.add_(self._times(x))

    def _times(self, x: Tensor) -> Tensor:
        self._x.copy_(x)
        return torch.mv(self.weight, self._x, out=self._y)


class Int8Matrix:
    """Weights in 8 bits, with a scale for each row: weight = integer * scale, no zero point.

    Each row's largest weight becomes 127 (Dettmers et al. 2022, LLM.int8(), section 2, absmax).
    """

    def __init__(self, weight: Tensor) -> None:
        weight = weight.detach().float()
        # The kernel reads scales in bfloat16, so the integers are made for those.
        scale = weight.abs().amax(dim=1).div(_LARGEST_INT8).clamp(min=1e-30).to(torch.bfloat16)
        integers = (weight / scale.float()[:, None]).round().clamp(-_LARGEST_INT8, _LARGEST_INT8)
        self.integers, self.scale = integers.to(torch.int8).contiguous(), scale
        self.n_bytes = weight.numel() + 2 * len(scale)
        self._x = scale.new_empty(1, weight.size(1))

    @property
    def restored(self) -> Tensor:
        """The weights `(rows, columns)` in float32."""
        return self.integers.float() * self.scale.float()[:, None]

    def product(self, x: Tensor, out: Tensor, scale: float = 1.0) -> None:
        """See `Matrix`; x and the result are rounded to bfloat16."""
        out.copy_(self._times(x))
        if scale != 1.0:
            out.mul_(scale)

    def accumulate(self, x: Tensor, into: Tensor) -> None:
        """See `Matrix`; x and the product are rounded to bfloat16."""
        into.add_(self._times(x))

    def _times(self, x: Tensor) -> Tensor:
        self._x.copy_(x)
        product: Tensor = torch.ops.aten._weight_int8pack_mm(self._x, self.integers, self.scale)
        return product[0]


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
