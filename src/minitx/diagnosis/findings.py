"""The names of what can go wrong, and what is known of each (`docs/diagnosis.md`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from minitx.config import TrainConfig
from minitx.training.observer import Event

Severity = Literal["warning", "error"]


@dataclass(frozen=True)
class Kind:
    """One thing that can go wrong.

    Attributes:
        severity: `error` if what comes after it is worthless, else `warning`.
        cause: what most likely leads to it.
        fix: what to try, as an imperative.
    """

    severity: Severity
    cause: str
    fix: str


@dataclass(frozen=True)
class Finding:
    """Something that went wrong in a run.

    Attributes:
        name: one of `KINDS`.
        step: optimizer steps done when it was seen.
        evidence: one line with the figures.
        cause: what most likely led to it.
        fix: what to try.
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
        """As the loop tells it."""
        return Event(self.step, self.name, self.severity, self.evidence, self.fix, self.cause)


_LOWER_RATE = (
    "Lower --learning-rate and --muon-learning-rate (a third is a fair try), or lengthen "
    "--warmup-steps"
)

KINDS = {
    "not-a-number": Kind(
        "error",
        "a number outgrew its format: the learning rate is too high, or a weight is broken",
        _LOWER_RATE,
    ),
    "loss-spike": Kind(
        "warning",
        "a batch unlike the others (damaged text), or a learning rate at the edge of what holds",
        "Look at the text of that batch; train with --on-spike rollback to skip such batches",
    ),
    "divergence": Kind(
        "error",
        "the learning rate is too high for this model",
        _LOWER_RATE,
    ),
    "plateau": Kind(
        "warning",
        "the learning rate is too low to move the weights, or the model has learned what it can "
        "at this rate",
        "Raise --learning-rate and --muon-learning-rate if the loss is still high; else let the "
        "rate fall (--decay linear), or train a larger model",
    ),
    "overfitting": Kind(
        "warning",
        "the model learns the train part by heart: too many parameters or too many steps for so "
        "little text",
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
        "queries and keys have grown until every softmax picks one position, and learns no more: "
        "the learning rate is too high for attention without query/key norm",
        "Lower --learning-rate, clip gradients (--grad-clip 1), or use --architecture qwen3, "
        "which bounds queries and keys",
    ),
    "dead-activations": Kind(
        "warning",
        "a step too large has pushed MLP units to where they answer nothing, and get no gradient",
        "Lower --learning-rate or lengthen --warmup-steps; train again, since dead units seldom "
        "come back",
    ),
    "leaky-mask": Kind(
        "error",
        "the attention mask lets positions see later tokens, so the model copies its targets",
        "Repair the model's mask, and train again; minitx attn --check-mask names the place",
    ),
    "mismatched-tokenizer": Kind(
        "error",
        "the ids of the holdout do not mean what those of the train part mean: it was encoded "
        "with another tokenizer, or is text of quite another kind",
        "Encode both parts with one tokenizer: train again with --tokenizer, or name another "
        "--holdout",
    ),
}
"""Everything that has a name."""


def finding(
    name: str, step: int, evidence: str, cause: str | None = None, fix: str | None = None
) -> Finding:
    """A finding with the cause and the fix of its kind, unless others are known."""
    kind = KINDS[name]
    return Finding(name, step, evidence, cause or kind.cause, fix or kind.fix)


def instability(name: str, step: int, evidence: str, config: TrainConfig) -> Finding:
    """A finding about a loss that rose or is no number: the config may tell the cause."""
    if config.grad_clip == 0:
        return finding(
            name,
            step,
            evidence,
            "gradients are not clipped (grad_clip is 0), so that one large gradient moves the "
            "weights far",
            f"Train with --grad-clip 1. {_LOWER_RATE}",
        )
    return finding(name, step, evidence)
