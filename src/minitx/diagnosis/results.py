"""What a review of a run gave: findings, and what was checked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minitx.diagnosis.findings import KINDS, Finding


@dataclass(frozen=True)
class Seen:
    """A finding as it was the first time, how often it was found, and the step of the last time."""

    finding: Finding
    times: int
    last_step: int


@dataclass(frozen=True)
class Check:
    """Something that was checked, and the result in words and figures."""

    what: str
    result: str


@dataclass(frozen=True)
class Diagnosis:
    """What was found in a run (errors first), and everything that was checked.

    Attributes:
        checkpoint: looked into; None if there is none.
    """

    run: Path
    checkpoint: Path | None
    findings: tuple[Seen, ...]
    checks: tuple[Check, ...]

    def to_json(self) -> dict[str, Any]:
        """As `minitx diagnose --json` prints it."""
        return {
            "run": str(self.run),
            "checkpoint": None if self.checkpoint is None else str(self.checkpoint),
            "findings": [
                {
                    "name": seen.finding.name,
                    "severity": seen.finding.severity,
                    "step": seen.finding.step,
                    "times": seen.times,
                    "last_step": seen.last_step,
                    "evidence": seen.finding.evidence,
                    "cause": seen.finding.cause,
                    "fix": seen.finding.fix,
                }
                for seen in self.findings
            ],
            "watched": list(KINDS),
            "checks": {check.what: check.result for check in self.checks},
        }
