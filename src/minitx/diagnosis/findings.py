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
from minitx.training.hooks import LOWER_RATE
from minitx.training.observer import Event

Severity = Literal["warning", "error"]
Look = TypeVar("Look", bound=Callable[..., Any])


@dataclass
class Kind:
    """One thing that can go wrong: decorates the function that looks for it.

    Attributes:
        severity: `error` if what comes after it is worthless, else `warning`.
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


def look(looks_at: str, told: list[str], step: int, *seen: object) -> list[Event]:
    """What all functions find that look at one thing.

    Args:
        looks_at: as in `Kind`; `seen` are the arguments of its functions.
        told: names of the findings that hold and were told; kept up to date. A finding is told
            once, and again only after it was over.
        step: optimizer steps done.
    """
    findings: list[Event] = []
    for name in KINDS.names():
        kind = KINDS.get(name)
        if kind.looks_at != looks_at:
            continue
        evidence = kind.look(*seen)
        if evidence is None and name in told:
            told.remove(name)
        elif evidence is not None and name not in told:
            told.append(name)
            findings.append(finding(name, step, evidence))
    return findings


def finding(
    name: str, step: int, evidence: str, cause: str | None = None, fix: str | None = None
) -> Event:
    """A finding, as observers are told of it; its cause and fix are those of its kind if empty."""
    kind = KINDS.get(name)
    return Event(step, name, kind.severity, evidence, fix or kind.fix, cause or kind.cause)


def instability(name: str, step: int, evidence: str, config: TrainConfig) -> Event:
    """A finding about a loss that rose or is NaN: the config may tell the cause."""
    if config.grad_clip > 0:
        return finding(name, step, evidence)
    cause = (
        "gradients are not clipped (grad_clip is 0), so that one large gradient moves the weights "
        "far"
    )
    return finding(name, step, evidence, cause, f"Train with --grad-clip 1. {LOWER_RATE}")
