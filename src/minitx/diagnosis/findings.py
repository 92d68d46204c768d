"""What can go wrong in training, by name, with its cause and fix (`docs/diagnosis.md`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from minitx.config import TrainConfig
from minitx.training.anomalies import LOWER_RATE
from minitx.training.observer import Event

Severity = Literal["warning", "error"]


@dataclass(frozen=True)
class Kind:
    """One thing that can go wrong.

    Attributes:
        severity: `error` if what comes after it is worthless, else `warning`.
        cause: what most likely leads to it.
        fix: what to try.
    """

    severity: Severity
    cause: str
    fix: str


@dataclass(frozen=True)
class Finding:
    """Something that went wrong in a run, after `step` optimizer steps.

    Attributes:
        name: one of `KINDS`.
        evidence: one line with the figures.
    """

    name: str
    step: int
    evidence: str
    cause: str
    fix: str

    @property
    def severity(self) -> Severity:
        """`warning` or `error`."""
        return KINDS[self.name].severity

    def to_event(self) -> Event:
        """As observers are told of it."""
        return Event(self.step, self.name, self.severity, self.evidence, self.fix, self.cause)


KINDS = {
    "not-a-number": Kind(
        "error",
        "a value overflowed its format: the learning rate is too high, or a weight is broken",
        LOWER_RATE,
    ),
    "loss-spike": Kind(
        "warning",
        "a batch unlike the others (damaged text), or a learning rate that is barely stable",
        "Look at the text of that batch; train with --on-spike rollback to skip such batches",
    ),
    "divergence": Kind("error", "the learning rate is too high for this model", LOWER_RATE),
    "plateau": Kind(
        "warning",
        "the learning rate is too low to move the weights, or the model has learned what it can "
        "at this rate",
        "Raise --learning-rate and --muon-learning-rate if the loss is still high; otherwise let "
        "the rate fall (--decay linear), or train a larger model",
    ),
    "overfitting": Kind(
        "warning",
        "the model memorizes the train part: too many parameters or too many steps for so little "
        "text",
        "Use the best checkpoint (it is kept); train with --early-stopping 3, --dropout 0.2, more "
        "text or a smaller model",
    ),
    "underfitting": Kind(
        "warning",
        "too few steps, a rate too low, or a model too small for the text",
        "Train longer (minitx resume --steps N), with a higher --learning-rate, or with a larger "
        "--d-model and more --layers",
    ),
    "attention-collapse": Kind(
        "warning",
        "queries and keys have grown until each softmax picks a single position and no longer "
        "learns: the learning rate is too high for attention without query/key norm",
        "Lower --learning-rate, clip gradients (--grad-clip 1), or use --architecture qwen3, "
        "which bounds queries and keys",
    ),
    "dead-activations": Kind(
        "warning",
        "too large a step has pushed MLP units to where their output and gradient are zero",
        "Lower --learning-rate or lengthen --warmup-steps; train again, since dead units rarely "
        "recover",
    ),
    "leaky-mask": Kind(
        "error",
        "the attention mask lets positions see later tokens, so the model copies its targets",
        "Repair the model's mask and train again; minitx attn --check-mask says where it leaks",
    ),
    "mismatched-tokenizer": Kind(
        "error",
        "token ids mean something else in the holdout than in the train part: it was encoded with "
        "another tokenizer, or is a very different kind of text",
        "Encode both parts with the same tokenizer: train again with --tokenizer, or name another "
        "--holdout",
    ),
}
"""Everything that has a name."""


def finding(
    name: str, step: int, evidence: str, cause: str | None = None, fix: str | None = None
) -> Finding:
    """A finding; its cause and fix are those of its kind unless given."""
    kind = KINDS[name]
    return Finding(name, step, evidence, cause or kind.cause, fix or kind.fix)


def instability(name: str, step: int, evidence: str, config: TrainConfig) -> Finding:
    """A finding about a loss that rose or is NaN: the config may tell the cause."""
    if config.grad_clip > 0:
        return finding(name, step, evidence)
    cause = (
        "gradients are not clipped (grad_clip is 0), so that one large gradient moves the weights "
        "far"
    )
    return finding(name, step, evidence, cause, f"Train with --grad-clip 1. {LOWER_RATE}")
