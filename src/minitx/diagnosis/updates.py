"""Gradient norm and update-to-weight ratio of each layer, in one step."""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor

from minitx.model import Transformer
from minitx.training.observer import HealthReport

STEPS = 10
"""Fewest steps from one report to the next: a copy of the weights costs a little."""


class UpdateMeter:
    """Measures around the updates of a model, in some of the steps that are logged."""

    def __init__(self, model: Transformer, log_every: int) -> None:
        self._parameters = [p.detach() for p in model.parameters()]
        self._every = log_every * max(1, -(-STEPS // log_every))
        members: dict[str, list[int]] = defaultdict(list)
        for index, (name, _) in enumerate(model.named_parameters()):
            members[layer_of(name)].append(index)
        self._layers = list(members)
        # (layers, parameters), 1 where a parameter belongs to a layer: sums by one product.
        self._belongs = torch.zeros(len(members), len(self._parameters))
        for row, indices in enumerate(members.values()):
            self._belongs[row, indices] = 1.0
        self._belongs = self._belongs.to(self._parameters[0].device)
        self._before: list[Tensor] | None = None
        self._gradient_norms = self._belongs[0]

    def before_update(self, step: int, gradient_norms: Tensor) -> None:
        """Remember the weights if a report is due."""
        if step % self._every == 0:
            self._before = [parameter.clone() for parameter in self._parameters]
            self._gradient_norms = gradient_norms

    def after_update(self, step: int) -> HealthReport | None:
        """The report, if one is due."""
        if self._before is None:
            return None
        weights = torch.stack(torch._foreach_norm(self._before))
        torch._foreach_sub_(self._before, self._parameters)
        updates = torch.stack(torch._foreach_norm(self._before))
        self._before = None
        sums = torch.stack((self._gradient_norms.float(), updates, weights)).square()
        by_layer = (self._belongs @ sums.T).sqrt()
        rows = torch.stack((by_layer[:, 0], by_layer[:, 1] / by_layer[:, 2].clamp_min(1e-30)))
        gradients, ratios = rows.tolist()
        return HealthReport(
            step=step,
            gradient_norms=dict(zip(self._layers, gradients, strict=True)),
            update_ratios=dict(zip(self._layers, ratios, strict=True)),
        )


def layer_of(parameter: str) -> str:
    """The layer that a parameter belongs to: `embedding`, `blocks.0`, ..., `norm` or `head`."""
    parts = parameter.split(".")
    if parts[0] == "blocks":
        return ".".join(parts[:2])
    return "embedding" if parts[0] == "positions" else parts[0]
