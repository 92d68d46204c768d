"""AdamW: Adam with decoupled weight decay (Loshchilov and Hutter 2019).

The arithmetic is torch's fused kernel; this class names the state, so that it can be saved as
plain tensors.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


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
        self.names: list[str] = []
        decayed: list[Tensor] = []
        kept: list[Tensor] = []
        self._parameters: list[Tensor] = []
        for name, parameter in parameters:
            self.names.append(name)
            self._parameters.append(parameter)
            (decayed if parameter.dim() >= 2 and name not in no_decay else kept).append(parameter)
        groups = [
            {"params": decayed, "weight_decay": weight_decay},
            {"params": kept, "weight_decay": 0.0},
        ]
        self._optimizer = torch.optim.AdamW(
            [group for group in groups if group["params"]], lr=0.0, betas=betas, eps=eps, fused=True
        )
        for parameter in self._parameters:
            # Allotted now rather than in the first step, so that a state can be loaded into it.
            state = self._optimizer.state[parameter]
            state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)

    def step(self, learning_rate: float) -> None:
        """Update every parameter from its `.grad`."""
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._optimizer.step()

    def state_tensors(self) -> dict[str, Tensor]:
        """First and second moment and step count of each parameter, by name, not copied."""
        words = {"exp_avg": "first_moment", "exp_avg_sq": "second_moment", "step": "steps"}
        return {
            f"{name}.{word}": self._optimizer.state[parameter][key]
            for name, parameter in zip(self.names, self._parameters, strict=True)
            for key, word in words.items()
        }

    @torch.no_grad()
    def load_state_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Copy a saved state in; raises KeyError or RuntimeError if it does not fit."""
        for name, tensor in self.state_tensors().items():
            tensor.copy_(tensors[name])
