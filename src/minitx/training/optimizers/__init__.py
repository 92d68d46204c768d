"""Optimizers: a new one is one more file here, or comes from outside (see `minitx.registry`).

Nothing here loads torch before an optimizer is asked for by name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from minitx.registry import Registry

if TYPE_CHECKING:
    import torch

    from minitx.config import TrainConfig
    from minitx.model import Transformer
    from minitx.training.optimizers.optimizer_base import Optimizer

OPTIMIZERS: Registry[type[Optimizer]] = Registry("optimizer", "minitx.training.optimizers")
"""The class of each, by the name that `TrainConfig.optimizer` has."""


def make_optimizer(
    model: Transformer, config: TrainConfig, product_dtype: torch.dtype | None = None
) -> Optimizer:
    """The optimizer that a configuration names; see `Optimizer` for the arguments.

    In float16, in which small gradients vanish, it computes in float32.

    Raises:
        BadInputError: there is none of that name, or its options are not those it reads.
    """
    is_half = str(product_dtype) == "torch.float16"
    return OPTIMIZERS.get(config.optimizer)(model, config, None if is_half else product_dtype)
