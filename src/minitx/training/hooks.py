"""What the training loop calls of those above it: the run that it is part of, and the detector.

Most of what a detector looks for, and its names, are in `minitx.diagnosis`; the class here sees
only what no run survives.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from minitx.config import TrainConfig
from minitx.training.state import TrainingState

LOWER_RATE = (
    "Lower --learning-rate and --muon-learning-rate (a third is a fair try), or lengthen "
    "--warmup-steps"
)


@dataclass(frozen=True)
class Anomaly:
    """A step after which training should perhaps not go on as it did.

    `what` is a line with the evidence, `since` the step at which the trouble began, from 1; after a
    fatal one, a NaN or an infinity, there is no update to go on from.
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

        Each parameter's `gradient_norms`, `(parameters,)`, are those before clipping.
        """

    def after_update(self, step: int) -> None:
        """After the weights changed."""

    def on_evaluation(
        self, step: int, train_loss: float, holdout_loss: float, rate_factor: float, is_last: bool
    ) -> None:
        """At each evaluation, after the holdout was scored, with losses in nats per token.

        `train_loss` is the mean since the evaluation before, `holdout_loss` NaN if there is no
        holdout, `rate_factor` the fraction of the peak learning rate in use.
        """

    def state(self) -> dict[str, Any]:
        """All that it remembers, as JSON values; not changed by what comes later."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to what `state` gave.

        Raises:
            ValueError: it is not such a state.
        """


@dataclass(frozen=True)
class HoldoutLoss:
    """What an evaluation measured: nats per token, the same in bits per byte, tokens scored, and
    half of the loss's 95 % interval.

    `old_loss` is that on the holdout of the run that this one began with; None without one.
    """

    loss: float
    bits_per_byte: float
    n_tokens: int
    margin: float = math.nan
    old_loss: float | None = None


class StopEvaluation(Exception):  # noqa: N818
    """The closing evaluation was cut short by a request to stop."""


@dataclass(frozen=True)
class RunHooks:
    """What the loop calls to evaluate, to show a sample and to save, and what it has to know.

    Attributes:
        evaluate: scores the holdout: as during the run, or (given True) as after the last step;
            the latter may raise `StopEvaluation`.
        sample: prompt and continuation drawn from the model, to show.
        save: saves a checkpoint; may return before the disk has it.
        saved: checkpoints that reached the disk since the last call.
        save_config: called when the number of steps was decided; returns when that is on disk.
        n_holdout: tokens of the holdout; 0 if there is none to score.
        n_scored, n_closing: how many of them an evaluation, and the closing one, score.
        look: looks inside the model as an evaluation does, and keeps nothing: it is timed.
        record: called after each step, and before the first one, with the steps done and planned:
            keeps a moment of the run's film if one is due, and tells whether.
        looking: entered by all processes of a team while the first looks at the model.
    """

    run: Path
    evaluate: Callable[[bool], HoldoutLoss]
    sample: Callable[[], tuple[str, str]]
    save: Callable[[TrainingState, TrainConfig], None]
    saved: Callable[[], list[tuple[int, Path]]]
    save_config: Callable[[TrainConfig], None]
    n_holdout: int
    n_scored: int
    n_closing: int
    look: Callable[[], object] = lambda: None
    record: Callable[[int, int], bool] = lambda step, steps: False
    looking: Callable[[], AbstractContextManager[object]] = nullcontext

    @property
    def closes_with_evaluation(self) -> bool:
        """Whether the evaluation of the last step is the closing one, too."""
        return not self.n_holdout or self.n_scored == self.n_closing
