"""How the loop calls whoever looks for anomalies while it trains.

That is one object, an `AnomalyDetector`. Most of what is looked for, and its names, are in
`minitx.diagnosis`, which lies above; the class here sees only what no run survives.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor

LOWER_RATE = (
    "Lower --learning-rate and --muon-learning-rate (a third is a fair try), or lengthen "
    "--warmup-steps"
)


@dataclass(frozen=True)
class Anomaly:
    """A step after which training should perhaps not go on as it did.

    Attributes:
        what: one line with the evidence.
        since: the step at which the trouble began, counted from 1.
        is_fatal: the loss or the gradient is NaN or infinite, so there is no update to go on from.
    """

    what: str
    fix: str
    since: int
    is_fatal: bool


class AnomalyDetector:
    """Base class: sees a loss or a gradient norm that is NaN or infinite, and nothing else.

    Every method must return quickly, since it is called in every step. Steps count from 1.
    """

    def on_loss(self, step: int, loss: float, gradient_norm: float) -> Anomaly | None:
        """Look at a step's loss (nats per token) and global gradient norm before clipping.

        Called in order, on a CPU before the update.
        """
        if math.isfinite(loss) and math.isfinite(gradient_norm):
            return None
        name, value = ("gradient norm", gradient_norm) if math.isfinite(loss) else ("loss", loss)
        return Anomaly(f"the {name} of step {step:,} is {value}", LOWER_RATE, step, is_fatal=True)

    def before_update(self, step: int, gradient_norms: Tensor) -> None:
        """Before the weights change.

        Args:
            gradient_norms: `(parameters,)` norm of each parameter's gradient before clipping, in
                the order of `model.parameters()`.
        """

    def after_update(self, step: int) -> None:
        """After the weights changed."""

    def on_evaluation(
        self, step: int, train_loss: float, holdout_loss: float, rate_factor: float, is_last: bool
    ) -> None:
        """At each evaluation, after the holdout was scored.

        Args:
            train_loss: mean since the evaluation before, nats per token.
            holdout_loss: nats per token; NaN if there is no holdout.
            rate_factor: fraction of the peak learning rate in use.
            is_last: no step follows.
        """

    def state(self) -> dict[str, Any]:
        """All that it remembers, as JSON values; not changed by what comes later."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to what `state` gave.

        Raises:
            ValueError: it is not such a state.
        """
