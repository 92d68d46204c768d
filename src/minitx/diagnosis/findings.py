"""What can go wrong in training, by name (`docs/diagnosis.md`).

A kind of finding is one function, decorated with its cause and its fix. One that looks at
evaluations or at probes is called with each of them, and so needs no other change.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from minitx.config import TrainConfig
from minitx.registry import Registry
from minitx.training.anomalies import LOWER_RATE
from minitx.training.observer import Event

Severity = Literal["warning", "error"]
Look = TypeVar("Look", bound=Callable[..., Any])


@dataclass
class Kind:
    """One thing that can go wrong: decorates the function that looks for it.

    Attributes:
        name: unlike any other.
        severity: `error` if what comes after it is worthless, else `warning`.
        cause: what most likely leads to it.
        fix: what to try.
        looks_at: `evaluations` for a function of a `CurveDetector` and a `Moment`, `probes` for
            one of a `ProbeReport`; both return the evidence, or None. `steps` is called by name.
    """

    name: str
    severity: Severity
    cause: str
    fix: str
    looks_at: Literal["steps", "evaluations", "probes"] = "steps"
    look: Callable[..., Any] = field(init=False)

    def __call__(self, look: Look) -> Look:
        """Register the function."""
        self.look = look
        KINDS.register(self.name)(self)
        return look


KINDS: Registry[Kind] = Registry("finding", "minitx.diagnosis")
"""Everything that has a name."""


def looks(looks_at: str) -> dict[str, Callable[..., str | None]]:
    """All functions that look at one thing, by the name of what they find."""
    kinds = map(KINDS.get, KINDS.names())
    return {kind.name: kind.look for kind in kinds if kind.looks_at == looks_at}


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
        return KINDS.get(self.name).severity

    def to_event(self) -> Event:
        """As observers are told of it."""
        return Event(self.step, self.name, self.severity, self.evidence, self.fix, self.cause)


def finding(
    name: str, step: int, evidence: str, cause: str | None = None, fix: str | None = None
) -> Finding:
    """A finding; its cause and fix are those of its kind unless given."""
    usual = KINDS.get(name)
    return Finding(name, step, evidence, cause or usual.cause, fix or usual.fix)


def instability(name: str, step: int, evidence: str, config: TrainConfig) -> Finding:
    """A finding about a loss that rose or is NaN: the config may tell the cause."""
    if config.grad_clip > 0:
        return finding(name, step, evidence)
    cause = (
        "gradients are not clipped (grad_clip is 0), so that one large gradient moves the weights "
        "far"
    )
    return finding(name, step, evidence, cause, f"Train with --grad-clip 1. {LOWER_RATE}")
