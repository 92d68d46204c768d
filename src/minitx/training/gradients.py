"""The loss of a batch and its gradients: one pass forward and backward."""

from __future__ import annotations

from torch import Tensor

from minitx.compute import Compute
from minitx.engine import loss_function
from minitx.model import Transformer


class GradientPass:
    """Computes the loss of one batch, and adds its gradients to those in the parameters.

    Args:
        passes: of an optimizer step, whose gradients are averaged.
        engine: that is asked for; see `minitx.engine.choose_engine`.

    Raises:
        BadInputError: torch.compile was asked for where it can't be used.
    """

    def __init__(
        self, model: Transformer, compute: Compute, passes: int = 1, engine: str = "auto"
    ) -> None:
        self._loss = loss_function(model, compute, engine)
        self._passes = passes

    def __call__(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Mean loss of a batch, `(batch, seq)` ids: a scalar in nats per token."""
        loss = self._loss(inputs, targets)
        part = loss / self._passes if self._passes > 1 else loss
        part.backward()  # type: ignore[no-untyped-call]
        return loss.detach()
