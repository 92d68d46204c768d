"""What the training loop tells whoever observes it: the terminal, `metrics.jsonl`, TensorBoard.

The loop knows no view and no logger: it gives events to `TrainingObserver.observe`, in order, from
one thread. A new kind of event is one more class here; whoever has no use for it needs no change.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from minitx.config import RunConfig
from minitx.registry import Registry


def perplexity(loss: float) -> float:
    """Return e to the loss (nats per token); infinity where that is too large for a float."""
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf


E = TypeVar("E", bound="TrainingEvent")
_FROM_JSON: dict[str, Callable[[Any], Any]] = {
    "int": int, "int | None": int, "float": float, "float | None": float, "str": str, "bool": bool,
}  # fmt: skip


@dataclass(frozen=True)
class TrainingEvent:
    """Base class of all that an observer is told, in its method `on_<kind>`.

    Where an event has a `step`, that is the number of optimizer steps done; losses are in nats per
    token; `elapsed_seconds` are those of training, earlier sessions of the run included.

    Attributes:
        is_logged: whether `metrics.jsonl` has it; then it has a `step`.
        logged: names of the attributes that stand there; empty for all fields.
    """

    kind: ClassVar[str]
    is_logged: ClassVar[bool] = True
    logged: ClassVar[tuple[str, ...]] = ()

    def to_line(self) -> dict[str, Any]:
        """As a line of `metrics.jsonl` has it: without what is None, which is not known."""
        names = self.logged or [field.name for field in dataclasses.fields(self)]
        values = {name: getattr(self, name) for name in ("kind", *names)}
        return {name: value for name, value in values.items() if value is not None}

    @classmethod
    def from_line(cls: type[E], line: Mapping[str, Any]) -> E:
        """The event that such a line was written of.

        Raises:
            TypeError, ValueError: another version wrote it, and something is missing.
        """
        known = [field for field in dataclasses.fields(cls) if line.get(field.name) is not None]
        return cls(**{field.name: _FROM_JSON[str(field.type)](line[field.name]) for field in known})

    @property
    def timing(self) -> dict[str, float]:
        """What the clock decides: it differs in a run that is repeated."""
        names = ("tokens_per_second", "elapsed_seconds")
        return {name: getattr(self, name) for name in names if hasattr(self, name)}


@dataclass(frozen=True)
class RunStart(TrainingEvent):
    """Known before the first step.

    Attributes:
        reasons: for each key the plan chose, and for the engine, why.
        device, dtype, engine: what computes, for example ``cpu (2 threads)``, ``float32`` and
            ``native``.
        first_step: steps already done, 0 for a new run.
        n_unknown_tokens: of the holdout, which stand for what the tokenizer lacks.
        prompt: a short one that the model reads; empty if there is none, None if it is not known.
        chats: whether it learns conversations.
    """

    kind = "start"
    is_logged = False

    run: Path
    config: RunConfig
    reasons: dict[str, str]
    n_parameters: int
    n_train_tokens: int
    n_holdout_tokens: int
    device: str
    dtype: str
    engine: str
    first_step: int
    n_unknown_tokens: int = 0
    prompt: str | None = None
    chats: bool = False


@dataclass(frozen=True)
class Phase(TrainingEvent):
    """A stretch in which no step is done starts, or ends; then its name is empty."""

    kind = "phase"
    is_logged = False

    name: str


@dataclass(frozen=True)
class StepReport(TrainingEvent):
    """One logged optimizer step, of the `steps` that are planned.

    Attributes:
        loss: of this step's batch, before the update.
        gradient_norm: global norm before clipping.
        learning_rate: AdamW's rate in this step.
        tokens: trained on so far.
        tokens_per_second: over the steps since the last report, evaluations left out.
        seconds_left: estimated time to the last step, evaluations included.
    """

    kind = "step"
    logged = (
        "step", "loss", "perplexity", "gradient_norm", "learning_rate", "tokens", "timing",
    )  # fmt: skip

    step: int
    steps: int
    loss: float
    gradient_norm: float
    learning_rate: float
    tokens: int
    tokens_per_second: float
    elapsed_seconds: float
    seconds_left: float

    @property
    def perplexity(self) -> float:
        """Of the loss."""
        return perplexity(self.loss)


@dataclass(frozen=True)
class HealthReport(TrainingEvent):
    """How strongly each layer was pulled and moved in one logged step.

    Layers are named `embedding`, `blocks.0` and so on, `norm`, and `head` unless it is tied. Norms
    are those before clipping, ratios those of a layer's update to the norm of its weights.
    """

    kind = "health"

    step: int
    gradient_norms: dict[str, float]
    update_ratios: dict[str, float]


@dataclass(frozen=True)
class ProbeReport(TrainingEvent):
    """What goes on inside the model on a few windows of text, looked at with each evaluation.

    Attributes:
        attention_entropy: of each layer's heads, mean over positions, nats.
        uniform_entropy: what heads have that look everywhere alike, nats.
        attention_score: largest magnitude of an attention score in each layer, before the softmax.
        output_logit: largest magnitude of an output logit.
        dead_activations: part of each layer's MLP units that no token of the text moves.
        leaks: some logit changed when only later tokens did.
    """

    kind = "probe"

    step: int
    attention_entropy: tuple[tuple[float, ...], ...]
    uniform_entropy: float
    attention_score: tuple[float, ...]
    output_logit: float
    dead_activations: tuple[float, ...]
    leaks: bool


@dataclass(frozen=True)
class EvaluationReport(TrainingEvent):
    """Holdout loss at one step, on `holdout_tokens`, if they were noted.

    Attributes:
        train_loss: mean since the evaluation before.
        sample: a short continuation of `sample_prompt` drawn from the model; empty for none.
        old_holdout_loss: on the holdout of the run that this one began with.
    """

    kind = "evaluation"
    logged = (
        "step", "train_loss", "holdout_loss", "holdout_perplexity", "holdout_bits_per_byte",
        "is_best", "sample_prompt", "sample", "holdout_tokens", "old_holdout_loss",
    )  # fmt: skip

    step: int
    train_loss: float
    holdout_loss: float
    holdout_bits_per_byte: float
    is_best: bool
    sample: str
    sample_prompt: str
    holdout_tokens: int | None = None
    old_holdout_loss: float | None = None

    @property
    def holdout_perplexity(self) -> float:
        """Of the holdout loss."""
        return perplexity(self.holdout_loss)


@dataclass(frozen=True)
class Event(TrainingEvent):
    """Something a person should know: a diagnosis, a changed plan, a rollback.

    Attributes:
        name: a fixed word, for example ``loss-spike`` or ``rollback``.
        severity: ``info``, ``warning`` or ``error``.
        message: one line with the evidence.
        fix, cause: what to try, and what most likely led to it; or empty.
    """

    kind = "event"
    logged = ("step", "name", "severity", "message", "cause", "fix")

    step: int
    name: str
    severity: str
    message: str
    fix: str = ""
    cause: str = ""


@dataclass(frozen=True)
class CheckpointSaved(TrainingEvent):
    """A checkpoint is safely on disk."""

    kind = "checkpoint"
    is_logged = False

    step: int
    directory: Path


@dataclass(frozen=True)
class RunEnd(TrainingEvent):
    """Known after the last step; the reason is ``finished``, ``early-stopping`` or ``interrupted``.

    Of the best checkpoint and of the last step, the loss is that on so many tokens of the holdout.
    """

    kind = "end"
    logged = (
        "step", "reason", "best_step", "best_holdout_loss", "final_holdout_loss",
        "final_holdout_tokens", "best_holdout_tokens", "tokens", "timing",
    )  # fmt: skip

    step: int
    reason: str
    best_step: int
    best_holdout_loss: float
    final_holdout_loss: float
    elapsed_seconds: float
    tokens: int
    final_holdout_tokens: int
    best_holdout_tokens: int | None = None


class TrainingObserver:
    """Base class: takes each kind of event in a method of its own, if it has one.

    For example `on_step(report: StepReport)`, `on_end(end: RunEnd)`: `on_` and the event's `kind`.
    They must return quickly, since the loop waits for them.
    """

    def observe(self, event: TrainingEvent) -> None:
        """Take any event; a forwarder overrides this alone."""
        method: Callable[[TrainingEvent], None] | None = getattr(self, f"on_{event.kind}", None)
        if method is not None:
            method(event)

    def close(self) -> None:
        """Release files and the terminal; called once, also after an error."""


class Observers(TrainingObserver):
    """Tells several observers, in order."""

    def __init__(self, observers: Sequence[TrainingObserver]) -> None:
        self._observers = observers

    def observe(self, event: TrainingEvent) -> None:
        """Pass it on to each."""
        for observer in self._observers:
            observer.observe(event)


OBSERVERS: Registry[Callable[[], TrainingObserver]] = Registry(
    "observer", "minitx.training.logging"
)
"""Observers of every run, beside its views and loggers: one of each is made, and closed."""
