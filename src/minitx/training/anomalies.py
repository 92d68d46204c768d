"""What the loop asks of whoever looks for trouble while it trains.

The loop calls one object, a `Watch`; what is seen and what it is called is the business of
`minitx.diagnosis`, which lies above. The class here sees only the one thing that no run survives.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Concern:
    """A step after which training should perhaps not go on as it did.

    Attributes:
        what: one line with the evidence.
        fix: what to try, as an imperative.
        since: the step at which the trouble began, counted from 1.
        fatal: the step gave no number, so its update can't be used.
    """

    what: str
    fix: str
    since: int
    fatal: bool


class Watch:
    """Base class: sees a loss or a gradient norm that is no number, and nothing else.

    Every method must return quickly: it stands in the hot loop.
    """

    def on_loss(self, step: int, loss: float, gradient_norm: float) -> Concern | None:
        """After each step's gradients, in order; on a CPU before the update.

        Args:
            step: counted from 1.
            loss: nats per token.
            gradient_norm: global, before clipping.
        """
        if math.isfinite(loss) and math.isfinite(gradient_norm):
            return None
        name, value = ("gradient norm", gradient_norm) if math.isfinite(loss) else ("loss", loss)
        return Concern(
            f"the {name} of step {step:,} is {value}",
            "Lower --learning-rate and --muon-learning-rate (a third is a fair try), or lengthen "
            "--warmup-steps",
            step,
            fatal=True,
        )

    def before_update(self, step: int, gradient_norms: Tensor) -> None:
        """Before the weights change.

        Args:
            step: counted from 1.
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
            step: optimizer steps done.
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
