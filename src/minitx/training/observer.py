"""What the training loop tells whoever watches: the terminal, `metrics.jsonl`, TensorBoard.

The loop knows no view and no logger; it calls these methods, in order, from one thread. An
observer must return quickly: it stands in the hot loop.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minitx.config import RunConfig


@dataclass(frozen=True)
class RunStart:
    """Known before the first step.

    Attributes:
        run: the run directory.
        config: the resolved config.
        reasons: for each key the plan chose, why, for example ``{"n_layers": "..."}``.
        n_parameters: trainable numbers.
        n_train_tokens: tokens of the train part.
        n_holdout_tokens: tokens of the holdout.
        device: where it computes, for example ``cpu (2 threads)``.
        dtype: format of the matrix products, ``float32`` or ``bfloat16``.
        attention: the form of attention in use, ``explicit`` or ``fused``.
        first_step: steps already done, 0 for a new run.
    """

    run: Path
    config: RunConfig
    reasons: dict[str, str]
    n_parameters: int
    n_train_tokens: int
    n_holdout_tokens: int
    device: str
    dtype: str
    attention: str
    first_step: int


@dataclass(frozen=True)
class StepReport:
    """One logged optimizer step.

    Attributes:
        step: number of optimizer steps done, counted from 1.
        steps: planned number of steps.
        loss: training loss of this step's batch, nats per token, before the update.
        gradient_norm: global norm before clipping.
        learning_rate: AdamW's rate in this step.
        tokens: training tokens consumed so far.
        tokens_per_second: over the steps since the last report, evaluations left out.
        elapsed_seconds: training time so far, earlier sessions of the run included.
        seconds_left: estimated time to the last step, evaluations included.
    """

    step: int
    steps: int
    loss: float
    gradient_norm: float
    learning_rate: float
    tokens: int
    tokens_per_second: float
    elapsed_seconds: float
    seconds_left: float


@dataclass(frozen=True)
class HealthReport:
    """How strongly each layer was pulled and moved in one logged step.

    Layers are named `embedding`, `blocks.0` and so on, `norm`, and `head` unless it is tied.

    Attributes:
        step: number of optimizer steps done, counted from 1.
        gradient_norms: before clipping, by layer.
        update_ratios: norm of a layer's update over the norm of its weights, by layer.
    """

    step: int
    gradient_norms: dict[str, float]
    update_ratios: dict[str, float]


@dataclass(frozen=True)
class ProbeReport:
    """What goes on inside the model on a few windows of text, looked at with each evaluation.

    Attributes:
        step: optimizer steps done.
        attention_entropy: of each layer's heads, mean over positions, nats.
        uniform_entropy: what heads have that look everywhere alike, nats.
        attention_score: largest magnitude of an attention score in each layer, before the softmax.
        output_logit: largest magnitude of an output logit.
        dead_activations: part of each layer's MLP units that no token of the text moves.
        leaks: some logit changed when only later tokens did.
    """

    step: int
    attention_entropy: tuple[tuple[float, ...], ...]
    uniform_entropy: float
    attention_score: tuple[float, ...]
    output_logit: float
    dead_activations: tuple[float, ...]
    leaks: bool


@dataclass(frozen=True)
class EvaluationReport:
    """Holdout loss at one step.

    Attributes:
        step: optimizer steps done.
        train_loss: mean training loss since the evaluation before, nats per token.
        holdout_loss: nats per token.
        holdout_bits_per_byte: the same loss in bits per byte of the holdout's text.
        is_best: lowest holdout loss so far.
        sample: a short continuation drawn from the model; empty if none was drawn.
        sample_prompt: the text it continues.
    """

    step: int
    train_loss: float
    holdout_loss: float
    holdout_bits_per_byte: float
    is_best: bool
    sample: str
    sample_prompt: str

    @classmethod
    def from_line(cls, line: Mapping[str, Any]) -> EvaluationReport:
        """The report that an `evaluation` line of `metrics.jsonl` was written of.

        Raises:
            KeyError, TypeError, ValueError: another version wrote it, and something is missing.
        """
        return cls(
            step=line["step"],
            train_loss=float(line["train_loss"]),
            holdout_loss=float(line["holdout_loss"]),
            holdout_bits_per_byte=float(line["holdout_bits_per_byte"]),
            is_best=bool(line["is_best"]),
            sample=str(line["sample"]),
            sample_prompt=str(line["sample_prompt"]),
        )


@dataclass(frozen=True)
class Event:
    """Something a person should know: a diagnosis, a changed plan, a rollback.

    Attributes:
        step: optimizer steps done.
        name: a fixed word, for example ``loss-spike`` or ``replanned``.
        severity: ``info``, ``warning`` or ``error``.
        message: one line with the evidence.
        fix: what to try, or empty.
        cause: what most likely led to it, or empty.
    """

    step: int
    name: str
    severity: str
    message: str
    fix: str = ""
    cause: str = ""


@dataclass(frozen=True)
class RunEnd:
    """Known after the last step.

    Attributes:
        step: optimizer steps done.
        reason: ``finished``, ``early-stopping`` or ``interrupted``.
        best_step: step of the best checkpoint.
        best_holdout_loss: nats per token at that step.
        final_holdout_loss: nats per token at the last step.
        elapsed_seconds: training time, earlier sessions included.
        tokens: training tokens consumed.
        final_holdout_tokens: about so many of the holdout `final_holdout_loss` is of.
    """

    step: int
    reason: str
    best_step: int
    best_holdout_loss: float
    final_holdout_loss: float
    elapsed_seconds: float
    tokens: int
    final_holdout_tokens: int


class TrainingObserver:
    """Base class: every method does nothing until overridden."""

    def on_start(self, start: RunStart) -> None:
        """Before the first step."""

    def on_phase(self, phase: str) -> None:
        """A stretch in which no step is done starts (or ends, with an empty text)."""

    def on_step(self, report: StepReport) -> None:
        """After a logged step."""

    def on_health(self, report: HealthReport) -> None:
        """After some logged steps: gradients and updates by layer."""

    def on_evaluation(self, report: EvaluationReport) -> None:
        """After a holdout evaluation."""

    def on_probe(self, report: ProbeReport) -> None:
        """After an evaluation: what goes on inside the model."""

    def on_checkpoint(self, step: int, directory: Path) -> None:
        """After a checkpoint is safely on disk."""

    def on_event(self, event: Event) -> None:
        """When something happened that a person should know."""

    def on_end(self, end: RunEnd) -> None:
        """After the last step."""

    def close(self) -> None:
        """Release files and the terminal; called once, also after an error."""
