"""AdamW: Adam with decoupled weight decay (Loshchilov and Hutter 2019).

The arithmetic is a compiled kernel (`native_update`), or else torch's fused one, called without
`torch.optim`: making any optimizer of that loads torch's compiler, which takes longer than a short
run's first hundred steps. This class names the state, so that it can be saved as plain tensors.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from minitx.training import native_update


@dataclass(frozen=True)
class Moments:
    """What is remembered of one parameter's gradients.

    Attributes:
        parameter: updated in place.
        first, second: running mean of the gradient and of its square, of the parameter's shape.
        steps: scalar float32, how many updates there were.
    """

    parameter: Tensor
    first: Tensor
    second: Tensor
    steps: Tensor

    @classmethod
    def of(cls, parameter: Tensor) -> Moments:
        """Those of a parameter that was not updated yet."""
        steps = torch.zeros((), dtype=torch.float32, device=parameter.device)
        return cls(parameter, torch.zeros_like(parameter), torch.zeros_like(parameter), steps)


class AdamW:
    """AdamW over named parameters; weight decay on matrices alone.

    Args:
        parameters: `(name, parameter)`. Vectors (norm gains, biases) are not decayed: pulling a
            gain towards 0 would silence a layer rather than simplify it.
        betas: decay of the running mean and of the running square of the gradient.
        weight_decay: scaled by the learning rate.
        no_decay: names of matrices that are not decayed either.
    """

    def __init__(
        self,
        parameters: Iterable[tuple[str, Tensor]],
        *,
        betas: tuple[float, float],
        weight_decay: float,
        eps: float = 1e-10,
        no_decay: frozenset[str] = frozenset(),
    ) -> None:
        self.betas = betas
        self.eps = eps
        self.names: list[str] = []
        groups: dict[bool, list[Moments]] = {True: [], False: []}
        self._all: list[Moments] = []
        for name, parameter in parameters:
            self.names.append(name)
            self._all.append(Moments.of(parameter))
            groups[parameter.dim() >= 2 and name not in no_decay].append(self._all[-1])
        self._groups = [(groups[True], weight_decay), (groups[False], 0.0)]

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """Update every parameter from its `.grad`."""
        for moments, weight_decay in self._groups:
            gradients = [m.parameter.grad for m in moments if m.parameter.grad is not None]
            if len(gradients) < len(moments):
                raise RuntimeError("AdamW.step needs a gradient for every parameter")
            if not moments:
                continue
            steps = [m.steps for m in moments]
            parameters = [m.parameter for m in moments]
            firsts, seconds = [m.first for m in moments], [m.second for m in moments]
            if self._compiled and all(gradient.is_contiguous() for gradient in gradients):
                native_update.adamw(
                    parameters, gradients, firsts, seconds, steps, rate=learning_rate,
                    betas=self.betas, eps=self.eps, weight_decay=weight_decay,
                )  # fmt: skip
                continue
            torch._foreach_add_(steps, 1.0)
            torch._fused_adamw_(
                parameters,
                gradients,
                firsts,
                seconds,
                [],
                steps,
                lr=learning_rate,
                beta1=self.betas[0],
                beta2=self.betas[1],
                weight_decay=weight_decay,
                eps=self.eps,
                amsgrad=False,
                maximize=False,
            )
            # The kernel leaves out what every other write does, and what is derived from weights
            # would be taken for new.
            torch.autograd.graph.increment_version(parameters)

    @functools.cached_property
    def _compiled(self) -> bool:
        return native_update.can_update(
            [t for m in self._all for t in (m.parameter, m.first, m.second, m.steps)]
        )

    def state_tensors(self) -> dict[str, Tensor]:
        """First and second moment and step count of each parameter, by name, not copied."""
        tensors: dict[str, Tensor] = {}
        for name, moments in zip(self.names, self._all, strict=True):
            tensors[f"{name}.first_moment"] = moments.first
            tensors[f"{name}.second_moment"] = moments.second
            tensors[f"{name}.steps"] = moments.steps
        return tensors

    @torch.no_grad()
    def load_state_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Copy a saved state in; raises KeyError or RuntimeError if it does not fit."""
        for name, tensor in self.state_tensors().items():
            tensor.copy_(tensors[name])
