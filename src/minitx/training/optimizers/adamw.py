"""AdamW: Adam with decoupled weight decay (Loshchilov and Hutter 2019).

The arithmetic is a compiled kernel (`minitx.fast.optimizer`), or else torch's fused one, called
without `torch.optim`: making any optimizer of that loads torch's compiler, which takes longer than
a short run's first hundred steps. This class names the state, so that it can be saved as plain
tensors.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from minitx.config import TrainConfig
from minitx.engine import update_kernels
from minitx.model import Transformer
from minitx.training.optimizers import OPTIMIZERS
from minitx.training.optimizers.optimizer_base import Optimizer


@dataclass(frozen=True)
class _Group:
    """Parameters that are decayed alike, and of each: the running mean of its gradient and of the
    gradient's square, and a float32 scalar of how many updates there were."""

    weight_decay: float
    parameters: list[Tensor]
    firsts: list[Tensor]
    seconds: list[Tensor]
    steps: list[Tensor]


class AdamW:
    """AdamW over named parameters; weight decay on matrices alone.

    Args:
        parameters: `(name, parameter)`. Vectors (norm gains, biases) are not decayed: pulling a
            gain towards 0 would silence a layer rather than simplify it.
        betas: decay of the running mean and of the running square of the gradient.
        weight_decay: scaled by the learning rate.
    """

    def __init__(
        self,
        parameters: Iterable[tuple[str, Tensor]],
        *,
        betas: tuple[float, float],
        weight_decay: float,
        eps: float = 1e-10,
    ) -> None:
        self.betas = betas
        self.eps = eps
        self._state: dict[str, Tensor] = {}
        decayed, others = _Group(weight_decay, [], [], [], []), _Group(0.0, [], [], [], [])
        self._groups = (decayed, others)
        for name, parameter in parameters:
            group = decayed if parameter.dim() >= 2 else others
            group.parameters.append(parameter)
            # `zeros_like` of a tensor without memory would import sympy.
            group.firsts.append(parameter.new_zeros(parameter.shape))
            group.seconds.append(parameter.new_zeros(parameter.shape))
            group.steps.append(torch.zeros((), dtype=torch.float32, device=parameter.device))
            self._state[f"{name}.first_moment"] = group.firsts[-1]
            self._state[f"{name}.second_moment"] = group.seconds[-1]
            self._state[f"{name}.steps"] = group.steps[-1]

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """Update every parameter from its `.grad`."""
        groups = [group for group in self._groups if group.parameters]
        gradients = [[p.grad for p in group.parameters if p.grad is not None] for group in groups]
        every = list(chain(*gradients))
        if len(every) < sum(len(group.parameters) for group in groups):
            raise RuntimeError("AdamW.step needs a gradient for every parameter")
        kernels = self._kernels
        if kernels is not None and all(gradient.is_contiguous() for gradient in every):
            decays = [group.weight_decay for group in groups for _ in group.parameters]
            kernels.adamw(
                [p for group in groups for p in group.parameters], every,
                [first for group in groups for first in group.firsts],
                [second for group in groups for second in group.seconds],
                [steps for group in groups for steps in group.steps],
                rate=learning_rate, betas=self.betas, eps=self.eps, weight_decays=decays,
            )  # fmt: skip
            return
        for group, its_gradients in zip(groups, gradients, strict=True):
            torch._foreach_add_(group.steps, 1.0)
            torch._fused_adamw_(
                group.parameters, its_gradients, group.firsts, group.seconds, [], group.steps,
                lr=learning_rate, beta1=self.betas[0], beta2=self.betas[1], eps=self.eps,
                weight_decay=group.weight_decay, amsgrad=False, maximize=False,
            )  # fmt: skip
            # The kernel does not count its writes as every other does, and what is derived from
            # the weights would be taken for new.
            torch.autograd.graph.increment_version(group.parameters)

    @functools.cached_property
    def _kernels(self) -> Any:
        parameters = [p for group in self._groups for p in group.parameters]
        return update_kernels([*parameters, *self._state.values()])

    def state_tensors(self) -> dict[str, Tensor]:
        """First and second moment and step count of each parameter, by name, not copied."""
        return dict(self._state)


@OPTIMIZERS.register("adamw")
class AdamWOptimizer(Optimizer):
    """AdamW for every parameter, except those that the class of another optimizer names."""

    state_bytes = 8
    updates_rows = True

    def __init__(
        self,
        model: Transformer,
        config: TrainConfig,
        product_dtype: torch.dtype | None = None,
        besides: Sequence[str] = (),
    ) -> None:
        super().__init__(model, config, product_dtype)
        parameters = [
            (name, p)
            for name, p in model.named_parameters()
            if p.requires_grad and name not in besides
        ]
        self.adamw = AdamW(
            parameters,
            betas=(config.beta1, config.beta2),
            weight_decay=config.weight_decay,
        )

    def update_parameters(self, rate_factor: float) -> None:
        """AdamW's step."""
        self.adamw.step(rate_factor * self.config.learning_rate)

    def state_tensors(self) -> dict[str, Tensor]:
        """The moments."""
        return {f"adamw.{name}": tensor for name, tensor in self.adamw.state_tensors().items()}
