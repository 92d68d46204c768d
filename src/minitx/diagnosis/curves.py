"""Plateau, overfitting, underfitting and a mismatched tokenizer, from the evaluations' losses."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from minitx.diagnosis.findings import Kind, look
from minitx.evaluation.verdict import rise
from minitx.training.observer import Event

# A plateau: over this part of all steps done, the newest, of at least so many evaluations, the
# second half of the train losses lies below the first by less than this part of the loss. Healthy
# runs fall by four times that (`docs/diagnosis.md`).
PLATEAU_PART = 0.5
PLATEAU_EVALUATIONS = 6
PLATEAU_FALL = 0.005

LOWEST_RATE = 0.2
"""No plateau is reported below this fraction of the peak rate, where little is meant to happen."""

OVERFITTING_EVALUATIONS = 3
"""Evaluations after the best before a rise is reported, unless no other follows."""

# A holdout is foreign to the train part if a bigram of the latter has more than this times the
# uniform loss on it. Parts of one text stay below 1, however short and however different; ids that
# mean something else come to 1.03 and more (`docs/diagnosis.md`).
FOREIGN = 1.02
# It is, too, if the bigram has more than this part of the uniform loss, and the model, with a train
# loss below the other part of it, does worse than uniform.
STRANGE = 0.9
LEARNED = 0.85

UNDERFITTING_MARGIN = 0.02
"""Part by which the loss must exceed that of the bigram."""


class Moment(NamedTuple):
    """What is known at an evaluation beside the losses.

    Attributes:
        rate_factor: as in `AnomalyDetector.on_evaluation`.
        uniform_loss: of a uniform guess, nats.
        pair_loss: gives the loss on the holdout of a bigram of the train part, nats; None if the
            tokens are not at hand.
        is_last: no step follows, and nothing is known that would explain a high loss.
    """

    rate_factor: float
    uniform_loss: float
    pair_loss: Callable[[], float] | None
    is_last: bool


@dataclass
class CurveDetector:
    """Told each evaluation, in order. Its fields are its state.

    Attributes:
        steps, train, holdout: step and losses of each evaluation.
        told: names of the findings that hold and were told.
    """

    steps: list[int] = field(default_factory=list)
    train: list[float] = field(default_factory=list)
    holdout: list[float] = field(default_factory=list)
    told: list[str] = field(default_factory=list)

    def on_evaluation(
        self, step: int, train_loss: float, holdout_loss: float, moment: Moment
    ) -> list[Event]:
        """Look at one more evaluation: step and losses as in `AnomalyDetector.on_evaluation`."""
        self.steps.append(step)
        self.train.append(train_loss)
        self.holdout.append(holdout_loss)
        return look("evaluations", self.told, step, self, moment)


@Kind(
    "mismatched-tokenizer",
    "error",
    "token ids mean something else in the holdout than in the train part: it was encoded with "
    "another tokenizer, or is a very different kind of text",
    "Encode both parts with the same tokenizer: train again with --tokenizer, or name another "
    "--holdout",
    looks_at="evaluations",
)
def _mismatch(curves: CurveDetector, moment: Moment) -> str | None:
    # By counts alone, so that neither training nor its arithmetic decides, where they do.
    holdout, train = curves.holdout[-1], curves.train[-1]
    if moment.pair_loss is None or math.isnan(holdout):
        return None
    pairs, uniform = moment.pair_loss(), moment.uniform_loss
    learned_in_vain = holdout > uniform and train < LEARNED * uniform
    if pairs > FOREIGN * uniform:
        comparison = "worse than"
    elif pairs > STRANGE * uniform and learned_in_vain:
        comparison = "little better than"
    else:
        return None
    return (
        f"a bigram of the train part has loss {pairs:.3g} on the holdout, {comparison} a "
        f"uniform guess ({uniform:.3g}); the model's loss is {holdout:.3g} there, and "
        f"{train:.3g} on the train part"
    )


@Kind(
    "overfitting",
    "warning",
    "the model memorizes the train part: too many parameters or too many steps for so little text",
    "Use the best checkpoint (it is kept); train with --early-stopping 3, --dropout 0.2, more "
    "text or a smaller model",
    looks_at="evaluations",
)
def _overfitting(curves: CurveDetector, moment: Moment) -> str | None:
    if math.isnan(curves.holdout[-1]) or "mismatched-tokenizer" in curves.told:
        return None
    risen = rise(list(zip(curves.steps, curves.holdout, strict=True)))
    if risen is None:
        return None
    best_step, lowest = risen
    best, last = curves.steps.index(best_step), len(curves.steps) - 1
    # The mean before the best evaluation is of earlier steps, and so a little high.
    train_then, train_now = curves.train[min(best + 1, last - 1)], curves.train[-1]
    if last - best < OVERFITTING_EVALUATIONS and not moment.is_last:
        return None
    if train_now >= train_then:
        return None
    return (
        f"the holdout loss rose from {lowest:.4g} at step {best_step:,} to "
        f"{curves.holdout[-1]:.4g}, while the train loss fell from {train_then:.4g} to "
        f"{train_now:.4g}"
    )


@Kind(
    "plateau",
    "warning",
    "the learning rate is too low to move the weights, or the model has learned what it can "
    "at this rate",
    "Raise --learning-rate and --muon-learning-rate if the loss is still high; otherwise let "
    "the rate fall (--decay linear), or train a larger model",
    looks_at="evaluations",
)
def _plateau(curves: CurveDetector, moment: Moment) -> str | None:
    step = curves.steps[-1]
    first = next(i for i, s in enumerate(curves.steps) if s >= step * (1 - PLATEAU_PART))
    newest = curves.train[first:]
    if len(newest) < PLATEAU_EVALUATIONS or moment.rate_factor < LOWEST_RATE:
        return None
    half = len(newest) // 2
    before, after = sum(newest[:half]) / half, sum(newest[-half:]) / half
    if not after > before * (1 - PLATEAU_FALL):
        return None
    return (
        f"the train loss averaged {before:.4g} over {half} evaluations from step "
        f"{curves.steps[first]:,} on, and {after:.4g} over the last {half}, to step {step:,}"
    )


@Kind(
    "underfitting",
    "warning",
    "too few steps, a rate too low, or a model too small for the text",
    "Train longer (resume it with more --steps), with a higher --learning-rate, or with a larger "
    "--d-model and more --layers",
    looks_at="evaluations",
)
def _underfitting(curves: CurveDetector, moment: Moment) -> str | None:
    # Where something worse happened, that is why little was learned.
    if not moment.is_last or moment.pair_loss is None or set(curves.told) - {"underfitting"}:
        return None
    train, holdout, pairs = curves.train[-1], curves.holdout[-1], moment.pair_loss()
    enough = pairs * (1 + UNDERFITTING_MARGIN)
    # A low loss on the train part alone is no lack of fit.
    if not train > enough or holdout <= enough:
        return None
    holdout_too = "" if math.isnan(holdout) else f", and the holdout loss {holdout:.4g}"
    return (
        f"at the end the train loss is {train:.4g}{holdout_too}; counting which token follows "
        f"which (an interpolated bigram) reaches {pairs:.4g}"
    )
