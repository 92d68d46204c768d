"""What a run's `metrics.jsonl` says, as columns: one array a figure, for curves and tables."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from minitx.training.observer import EvaluationReport, Event

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Series:
    """Figures that were noted at the same steps: `(points,)` each; NaN where a line had none."""

    step: IntArray
    columns: dict[str, FloatArray]

    def __len__(self) -> int:
        return len(self.step)

    def thinned(self, most: int, by: str) -> Series:
        """At most about `most` points: evenly spaced ones, and extremes of the column `by`.

        The first are three quarters of them and stand for all; the others keep every spike, even
        one of a single step.
        """
        if len(self) <= most:
            return self
        values = self.columns[by]
        kept = set(np.linspace(0, len(self) - 1, max(2, most * 3 // 4)).astype(np.int64).tolist())
        for part in np.array_split(np.arange(len(self)), max(1, most // 8)):
            known = part[np.isfinite(values[part])]
            if len(known):
                kept.add(int(known[np.argmin(values[known])]))
                kept.add(int(known[np.argmax(values[known])]))
        indices = np.array(sorted(kept))
        columns = {name: column[indices] for name, column in self.columns.items()}
        return Series(self.step[indices], columns)


@dataclass(frozen=True, eq=False)
class RunHistory:
    """All that was noted while a run was trained.

    Attributes:
        steps: `loss`, `gradient_norm`, `learning_rate`, `tokens`, `tokens_per_second` and
            `elapsed_seconds` of the logged steps. Losses are in nats per token.
        clock: `tokens` and `elapsed_seconds` of the logged steps and of the end.
        gradient_norms: before clipping, a column for each layer.
        update_ratios: norm of a layer's update over the norm of its weights, a column each.
        ending: as in `RunEnd.reason`; None while the run has not ended.
    """

    steps: Series
    clock: Series
    gradient_norms: Series
    update_ratios: Series
    evaluations: tuple[EvaluationReport, ...] = ()
    events: tuple[Event, ...] = ()
    ending: str | None = None

    @property
    def last_step(self) -> int:
        """Optimizer steps done, as far as was noted."""
        evaluated = [report.step for report in self.evaluations[-1:]]
        return max([0, *map(int, self.clock.step[-1:]), *evaluated])

    @property
    def best(self) -> EvaluationReport | None:
        """The evaluation that training marked as the best."""
        return next((report for report in reversed(self.evaluations) if report.is_best), None)

    def at(self, column: str, step: float) -> float:
        """A figure of the clock, `tokens` or `elapsed_seconds`, at any step; NaN if unknown.

        Between logged steps it is taken to grow evenly.
        """
        values = self.clock.columns[column]
        known = np.isfinite(values)
        if not known.any():
            return math.nan
        steps = np.concatenate([[0], self.clock.step[known]])
        return float(np.interp(step, steps, np.concatenate([[0.0], values[known]])))


CLOCK_COLUMNS = ("tokens", "elapsed_seconds")
STEP_COLUMNS = (
    "loss", "gradient_norm", "learning_rate", "tokens", "tokens_per_second", "elapsed_seconds",
)  # fmt: skip

Rows = dict[int, Mapping[str, Any]]
"""Figures by step; of a step that was trained twice, the last count."""


def read_history(records: Iterable[Mapping[str, Any]]) -> RunHistory:
    """Sort the lines of a `metrics.jsonl` into columns.

    What another version wrote and this one can't use is passed over.
    """
    steps: Rows = {}
    clock: Rows = {}
    gradient_norms: Rows = {}
    update_ratios: Rows = {}
    evaluations: dict[int, EvaluationReport] = {}
    events: list[Event] = []
    ending: str | None = None
    for line in records:
        with contextlib.suppress(KeyError, ValueError, TypeError):
            kind, step = line["kind"], line["step"]
            if kind == "step":
                steps[step] = clock[step] = _with_timing(line)
            elif kind == "health":
                gradient_norms[step] = dict(line["gradient_norms"])
                update_ratios[step] = dict(line["update_ratios"])
            elif kind == "evaluation":
                evaluations[step] = EvaluationReport.from_line(line)
            elif kind == "event":
                events.append(Event.from_line(line))
            elif kind == "end":
                ending = str(line["reason"])
                clock[step] = _with_timing(line)
    return RunHistory(
        _series(steps, STEP_COLUMNS),
        _series(clock, CLOCK_COLUMNS),
        _series(gradient_norms),
        _series(update_ratios),
        tuple(evaluations[step] for step in sorted(evaluations)),
        tuple(sorted(events, key=lambda event: event.step)),
        ending,
    )


def _series(rows: Rows, names: Sequence[str] = ()) -> Series:
    steps = sorted(rows)
    names = names or list(dict.fromkeys(name for step in steps for name in rows[step]))
    columns = {
        name: np.array([_number(rows[step].get(name)) for step in steps], np.float64)
        for name in names
    }
    return Series(np.array(steps, np.int64), columns)


def _with_timing(line: Mapping[str, Any]) -> dict[str, Any]:
    timing = line.get("timing")
    return {**line, **(timing if isinstance(timing, dict) else {})}


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan
