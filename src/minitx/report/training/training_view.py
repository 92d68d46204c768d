"""Training as plain lines, and which view of training suits where the output goes.

Every plain line starts with a word that says what it is (`step`, `evaluation`, `warning`, ...), and
its figures stand in the same order and width each time.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TextIO

from rich.console import Console
from rich.text import Text

from minitx.report.terminal.printable import going_on, run_path, visible
from minitx.report.training.plan_view import plan_table
from minitx.report.training.training_report import (
    TrainingRecord,
    closing_lines,
    evaluation_columns,
    evaluation_figures,
    sample_lines,
    step_figures,
)
from minitx.report.training.training_screen import final_lines
from minitx.training import observer

_NARROWEST, _LOWEST = 70, 16
_WIDTH = 80
_SHORTEST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0
_LINES_PER_RUN = 200
_STEP_WIDTHS = {"loss": 7, "perplexity": 8, "holdout loss": 7, "tokens/s": 6,
                "gradient norm": 8, "learning rate": 0, "elapsed": 6, "left": 6}  # fmt: skip
_EVALUATION_WIDTHS = (7, 7, 8, 7)


def choose_view(stream: TextIO) -> observer.TrainingObserver:
    """Pick the live screen for a terminal that can show it, plain lines for all else.

    Plain are: files and pipes, ``TERM=dumb`` (or unset or ``linux``, which has no Braille), CI
    systems (``CI`` set), streams that are not UTF-8, and windows too small for the screen.
    ``NO_COLOR`` keeps the live screen and takes its colours away.
    """
    if _can_redraw(stream):
        from minitx.report.training.training_live import LiveTrainingView

        return LiveTrainingView(Console(file=stream, highlight=False))
    return PlainTrainingView(stream)


def _can_redraw(stream: TextIO) -> bool:
    if not stream.isatty() or os.environ.get("CI"):
        return False
    # Windows sets no TERM, and rich knows how to draw there.
    if os.name != "nt" and os.environ.get("TERM", "dumb") in ("", "dumb", "unknown", "linux"):
        return False
    if not (stream.encoding or "").lower().replace("-", "").startswith("utf"):
        return False
    try:
        columns, lines = os.get_terminal_size(stream.fileno())
    except (OSError, ValueError):
        return False
    return columns >= _NARROWEST and lines >= _LOWEST


class PlainTrainingView(observer.TrainingObserver):
    """Prints a line a second at most; in runs of more than some minutes, fewer."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._console = Console(file=stream, width=_WIDTH, color_system=None, highlight=False)
        self._record = TrainingRecord()
        self._next_line = 0.0
        self._gone = False

    def observe(self, event: observer.TrainingEvent) -> None:
        """Take what is told, and print it."""
        self._record.observe(event)
        super().observe(event)

    def on_start(self, start: observer.RunStart) -> None:
        """Print the plan."""
        self._line(f"run {run_path(start.run)}")
        for line in self._console.render_lines(plan_table(start), pad=False):
            self._line("".join(segment.text for segment in line).rstrip())

    def on_phase(self, phase: observer.Phase) -> None:
        """Name what takes the time before the first step."""
        if phase.name and self._record.latest is None:
            self._line(f"phase {phase.name}")

    def on_step(self, report: observer.StepReport) -> None:
        """Print the figures if the last line is old enough, or the step is the last."""
        now = self._clock()
        if now < self._next_line and report.step < report.steps:
            return
        pause = (report.elapsed_seconds + report.seconds_left) / _LINES_PER_RUN
        # Also right when the time left is not known: min and max then pick the shortest.
        self._next_line = now + min(_LONGEST_PAUSE, max(_SHORTEST_PAUSE, pause))
        figures = step_figures(self._record, "-")
        shown = (f"{name} {figures[name]:>{width}}" for name, width in _STEP_WIDTHS.items())
        done = f"{report.step:>{len(str(report.steps))}}/{report.steps}"
        self._line("  ".join([f"step {done}", *shown]))

    def on_evaluation(self, report: observer.EvaluationReport) -> None:
        """Print the figures, and the sample indented below."""
        names, figures = evaluation_columns([report])[1:], evaluation_figures(report)[1:]
        named = zip(names, figures, _EVALUATION_WIDTHS, strict=True)
        shown = [f"{name} {figure:>{width}}" for name, figure, width in named]
        best = ["best"] if report.is_best else []
        self._line("  ".join([f"evaluation step {report.step}", *shown, *best]))
        if report.sample:
            self._lines(sample_lines(report, self._console, _WIDTH, 10))

    def on_event(self, event: observer.Event) -> None:
        """Print what happened and what to try."""
        cause = f". Likely cause: {event.cause}" if event.cause else ""
        fix = f". Try: {going_on(event.fix)}" if event.fix else ""
        message = f"{event.message}{cause}{fix}".replace("\n", " ")
        self._line(visible(f"{event.severity} step {event.step} {event.name}: {message}"))

    def on_end(self, end: observer.RunEnd) -> None:
        """Print curve, evaluations, summary and what to run next."""
        lines = final_lines(self._record, self._console, with_sample=False)
        self._lines([Text(), *lines, Text(), *closing_lines(self._record)])

    def _line(self, line: str) -> None:
        """Write one line; if the reader went away, be silent: training goes on without it."""
        if self._gone:
            return
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        try:
            self._stream.write(line.encode(encoding, "replace").decode(encoding) + "\n")
            self._stream.flush()
        except (OSError, ValueError):
            self._gone = True

    def _lines(self, lines: list[Text]) -> None:
        for line in lines:
            self._line(line.plain.rstrip())
