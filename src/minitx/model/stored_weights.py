"""Models whose matrices are kept in fewer bits."""

from __future__ import annotations

import torch
from torch import Tensor

from minitx.config import WEIGHT_FORMATS, WeightFormat
from minitx.config.checks import require_one_of
from minitx.model.matrices import Bfloat16Matrix, Int8Matrix
from minitx.model.transformer import Transformer


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
