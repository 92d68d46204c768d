"""What the training loop asks of the run that it is part of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from minitx.config import TrainConfig
from minitx.training.state import TrainingState


@dataclass(frozen=True)
class HoldoutLoss:
    """What an evaluation measured: nats per token, and the same in bits per byte of the text.

    `n_tokens` were scored; None where that is not known.
    """

    loss: float
    bits_per_byte: float
    n_tokens: int | None = None


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
        n_scored: how many of them an evaluation scores; never the first, which has no context.
        n_closing: how many of them are scored after the last step.
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

    @property
    def closes_with_evaluation(self) -> bool:
        """Whether the evaluation of the last step is the closing one, too."""
        return not self.n_holdout or self.n_scored == self.n_closing
