"""What all optimizers share: clipping, the order of a step, and how a saved state is taken up."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from minitx.config import TrainConfig
from minitx.config.options import Config
from minitx.config.toml import build
from minitx.engine import update_kernels
from minitx.model import Transformer
from minitx.training.team import ALONE, Team


@dataclass(frozen=True)
class NoOptions(Config):
    """Of an optimizer that reads no `optimizer_options`."""


class Optimizer(ABC):
    """Base class: a kind of optimizer gives `update_parameters` and `state_tensors`.

    It updates the model's parameters in place; `product_dtype` is that of its matrix products, if
    it has any, and None is float32.

    Attributes:
        description: for the plan of a run; its name where this is empty.
        planned_rate: `learning_rate` of a run for which none is given.
        state_bytes: at least so many bytes that it remembers of each parameter.
        updates_rows: whether it can update some rows of each parameter by those of its gradient.
            What it remembers of a parameter has the parameter's name in its own.
        team: the processes that all make the same update, and may share out the work.
        has_rows: whether each of them has some rows of each parameter (`rows_of`).
        Options: a `Config` of what it reads of `TrainConfig.optimizer_options`.
    """

    description: ClassVar[str] = ""
    planned_rate: ClassVar[float] = 0.003
    state_bytes: ClassVar[int] = 0
    updates_rows: ClassVar[bool] = False
    Options: ClassVar[type[Config]] = NoOptions

    def __init__(
        self, model: Transformer, config: TrainConfig, product_dtype: torch.dtype | None = None
    ) -> None:
        self.config = config
        self.options: Any = build(self.Options, config.optimizer_options, "optimizer_options")
        self.product_dtype = product_dtype or torch.float32
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.team: Team = ALONE
        self.has_rows = False

    @abstractmethod
    def update_parameters(self, rate_factor: float) -> None:
        """Change every parameter by its clipped `.grad`, at this fraction of the peak rates."""

    @abstractmethod
    def state_tensors(self) -> dict[str, Tensor]:
        """Everything that it remembers, by name; not copied."""

    def collect_state(self) -> None:  # noqa: B027
        """Make `state_tensors` whole on every process, of which each may remember a part."""

    @classmethod
    def peak_rates(cls, config: TrainConfig) -> dict[str, float]:
        """Its learning rates, each by what it is of; by an empty text if there is only one."""
        return {"": config.learning_rate}

    def product_flops(self) -> float:
        """Floating-point operations of the matrix products of an update."""
        return 0.0

    def step(self, rate_factor: float) -> Tensor:
        """Clip the gradients, update, and clear them; return the global norm before clipping."""
        norm, _ = self.clip_gradients()
        self.update(rate_factor)
        return norm

    def clip_gradients(self) -> tuple[Tensor, Tensor]:
        """Scale all gradients down together if their norm exceeds `grad_clip`.

        Returns:
            Before clipping: the global gradient norm, a scalar, and the norm of each parameter's
            gradient, `(parameters,)`.
        """
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        kernels = update_kernels(gradients)
        norms = kernels.norms(gradients) if kernels else torch.stack(torch._foreach_norm(gradients))
        if self.has_rows:
            norms = self.team.add_up(norms.double().square()).sqrt().to(norms.dtype)
        norm = torch.linalg.vector_norm(norms)
        largest = self.config.grad_clip
        if largest and kernels:
            factor = largest / (float(norm) + 1e-6)
            if not factor >= 1:  # also if it is NaN
                kernels.scale(gradients, factor)
        elif largest:
            torch.nn.utils.clip_grads_with_norm_(self.parameters, largest, norm)
        return norm, norms

    def update(self, rate_factor: float) -> None:
        """Take the step, and clear the gradients."""
        with torch.no_grad():
            self.update_parameters(rate_factor)
        self.clear_gradients()

    def clear_gradients(self) -> None:
        """Forget the gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def load_state_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Copy saved state in.

        Raises:
            KeyError: a tensor is missing.
            RuntimeError: a tensor has another shape.
        """
        for name, tensor in self.state_tensors().items():
            tensor.copy_(tensors[name])
