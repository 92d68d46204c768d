"""The weights a model starts from."""

from __future__ import annotations

import math

from torch import nn

from minitx.config import ModelConfig

STANDARD_DEVIATION = 0.02
"""Of matrices and embeddings (Radford et al. 2018, GPT, section 4.1)."""


def initialize(model: nn.Module, config: ModelConfig) -> None:
    """Draw all weights anew, from torch's generator.

    Matrices that write to the residual stream start smaller by sqrt(2 n_layers), so that the
    stream's size does not grow with depth (Radford et al. 2019, GPT-2, section 2.3). Norm gains
    stay 1 and biases 0.
    """
    residual = STANDARD_DEVIATION / math.sqrt(2 * config.n_layers)
    for name, parameter in model.named_parameters():
        if parameter.dim() < 2:
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            continue
        writes = name.endswith(("attention.output.weight", "mlp.down.weight"))
        nn.init.normal_(parameter, std=residual if writes else STANDARD_DEVIATION)
