"""Weights rounded to fewer bits.

One token reads every weight once and does two operations with it, so its speed is that of reading
memory: what counts is how many bytes a weight takes.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass

import torch
from torch import Tensor

from minitx.checkpoint.own_model import refuse_own
from minitx.config.checks import require_one_of
from minitx.config.requests import WEIGHT_FORMATS, WeightFormat
from minitx.model import Transformer, matrix_parameters

_LARGEST_INT8 = 127


@dataclass(frozen=True)
class QuantizedMatrix:
    """A matrix in a small format."""

    weights: Tensor
    """`(rows, columns)` in bfloat16, or the integers in int8."""

    scale: Tensor | None = None
    """`(rows,)` float32, what each row's integers are multiplied by; None for bfloat16."""

    @property
    def restored(self) -> Tensor:
        """The rounded weights `(rows, columns)` in float32."""
        restored = self.weights.float()
        return restored if self.scale is None else restored * self.scale[:, None]


def round_to_bfloat16(weight: Tensor) -> QuantizedMatrix:
    """Half the bytes of float32, 8 bits of precision."""
    return QuantizedMatrix(weight.detach().to(torch.bfloat16))


def round_to_int8(weight: Tensor) -> QuantizedMatrix:
    """8 bits with a scale for each row: weight = integer * scale, no zero point.

    Each row's largest weight becomes 127 (Dettmers et al. 2022, LLM.int8(), section 2, absmax). The
    scale is rounded to bfloat16 first, and the integers are made for that.
    """
    weight = weight.detach().float()
    scale = weight.abs().amax(dim=1).div(_LARGEST_INT8).clamp(min=1e-30)
    scale = scale.to(torch.bfloat16).float()
    integers = (weight / scale[:, None]).round().clamp(-_LARGEST_INT8, _LARGEST_INT8)
    return QuantizedMatrix(integers.to(torch.int8), scale)


# Of each model by the name of the weight, with the state that the weight was left in.
_QUANTIZED: weakref.WeakKeyDictionary[
    Transformer, dict[str, tuple[QuantizedMatrix, tuple[int, int]]]
] = weakref.WeakKeyDictionary()


def quantize(model: Transformer, weight_format: WeightFormat | str) -> None:
    """Round all matrices of a model, the head among them, to fewer bits.

    The model computes with the rounded values from now on, in its own number format; where a kernel
    reads one token at a time, it reads them in the small one.

    Raises:
        BadInputError: there is no such format.
    """
    require_one_of("quantize", weight_format, WEIGHT_FORMATS)
    refuse_own(model, "rounding weights", "Leave out --quantize and --dtype")
    rounded = round_to_bfloat16 if weight_format == "bfloat16" else round_to_int8
    names = [name for name, _, _ in matrix_parameters(model)]
    matrices = _QUANTIZED[model] = {}
    for name in (*names, "head.weight"):
        weight = model.get_parameter(name)
        matrix = rounded(weight)
        with torch.no_grad():
            weight.copy_(matrix.restored)
        matrices[name] = (matrix, weight_state(weight))


def quantized_matrices(model: Transformer) -> dict[str, QuantizedMatrix]:
    """Small forms of a model's weights by name, of those not written to since `quantize`."""
    return {
        name: matrix
        for name, (matrix, state) in _QUANTIZED.get(model, {}).items()
        if state == weight_state(model.get_parameter(name))
    }


def weight_state(weight: Tensor) -> tuple[int, int]:
    """Equal as long as a weight stays where it is and is not written to."""
    return weight.data_ptr(), weight._version
