"""The last good states of a run, kept in memory to go back to (`--on-spike rollback`).

Two are kept. The weights just before a bad loss may be those that caused it, so the newer is used
only if it was taken some steps before the trouble began.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from minitx.errors import DamagedFileError
from minitx.model import Transformer
from minitx.training.hooks import AnomalyDetector
from minitx.training.optimizers.optimizer_base import Optimizer

SPACING = 25
"""Fewest steps from one to the next."""

MARGIN = 5
"""Steps before the trouble began in which no state counts as good."""


@dataclass(frozen=True)
class GoodState:
    """Copies of everything that learning changes, when `step` optimizer steps were done."""

    step: int
    tensors: dict[str, Tensor]
    detector: dict[str, Any]


class GoodStates:
    """Takes states of a model, its optimizer and its detector, and goes back to them in place."""

    def __init__(self, model: Transformer, optimizer: Optimizer, detector: AnomalyDetector) -> None:
        self._model = model
        self._optimizer = optimizer
        self._detector = detector
        self._kept: list[GoodState] = []

    def take(self, step: int) -> None:
        """Keep the present state as the newest, unless the last one was taken shortly before."""
        if self._kept and step < self._kept[-1].step + SPACING:
            return
        copies = {name: tensor.detach().clone() for name, tensor in self._tensors().items()}
        self._kept = [*self._kept[-1:], GoodState(step, copies, self._detector.state())]

    def go_back(self, since: int) -> int:
        """Restore the newest state from before the trouble began; return the step that it is of."""
        early = [good for good in self._kept if good.step <= since - 1 - MARGIN]
        good = early[-1] if early else self._kept[0]
        self._kept = [other for other in self._kept if other.step <= good.step]
        with torch.no_grad():
            for name, tensor in self._tensors().items():
                tensor.copy_(good.tensors[name])
        self._detector.restore(good.detector)
        return good.step

    def description(self) -> list[dict[str, Any]]:
        """Step and detector of each, as JSON values."""
        return [{"step": good.step, "watch": good.detector} for good in self._kept]

    def tensors(self, present_step: int) -> dict[str, Tensor]:
        """Tensors of each that is not the present state, by name; never changed any more."""
        return {
            f"{good.step}.{name}": tensor
            for good in self._kept
            if good.step != present_step
            for name, tensor in good.tensors.items()
        }

    def load(
        self, description: list[dict[str, Any]], tensors: dict[str, Tensor], present_step: int
    ) -> None:
        """Take up what `description` and `tensors` gave; the present state must be restored.

        Raises:
            DamagedFileError: they do not fit each other, or the model.
        """
        present = self._tensors()
        try:
            kept = []
            for entry in description:
                step, copies = int(entry["step"]), {}
                for name, like in present.items():
                    saved = like if step == present_step else tensors[f"{step}.{name}"]
                    if saved.shape != like.shape:
                        raise ValueError(f"{name} has another shape")
                    copies[name] = saved.detach().to(like.device, like.dtype, copy=True)
                kept.append(GoodState(step, copies, dict(entry["watch"])))
        except (KeyError, TypeError, ValueError) as error:
            raise DamagedFileError(
                f"the good states of the checkpoint can't be used ({error})",
                "Use another checkpoint of the run",
            ) from None
        self._kept = kept

    def _tensors(self) -> dict[str, Tensor]:
        model = {f"model.{name}": p for name, p in self._model.named_parameters()}
        return model | {f"optimizer.{k}": v for k, v in self._optimizer.state_tensors().items()}
