"""Training on a terminal: one calm screen that is redrawn in place.

Drawing stands in the hot loop, so it is rationed: at most four frames a second, and fewer where
frames are slow, so that drawing takes at most a hundredth of the time. No thread draws while
steps are done; only in a phase without steps a small one turns the spinner.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable

from rich.console import Console, Group
from rich.control import Control
from rich.live import Live
from rich.segment import ControlType, Segment
from rich.text import Text

from minitx.report.training.plan_view import plan_table
from minitx.report.training.training_report import TrainingRecord, closing_lines
from minitx.report.training.training_screen import final_lines, training_screen
from minitx.training import observer

_WIDEST_PLAN = 110
_SHORTEST_PAUSE = 0.25
_LONGEST_PAUSE = 2.0
_PAUSE_PER_DRAWING = 100.0
_SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_SPINNER_PAUSE = 0.2


def _raw_control(codes: str) -> Control:
    control = Control()
    control.segment = Segment(codes, None, [(ControlType.CARRIAGE_RETURN,)])
    return control


# DEC mode 2026: what stands between is shown at once. Other terminals ignore it.
_BEGIN_FRAME, _END_FRAME = _raw_control("\x1b[?2026h"), _raw_control("\x1b[?2026l")


class LiveTrainingView(observer.TrainingObserver):
    """Shows training on a terminal that can move its cursor and show UTF-8.

    The clock gives seconds, monotonic.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console, self._clock = console, clock
        self._record = TrainingRecord()
        self._live = Live(
            console=self._console,
            auto_refresh=False,
            transient=True,
            # A stream sent elsewhere is left alone; on this terminal it would tear the screen.
            redirect_stdout=sys.stdout.isatty(),
            redirect_stderr=sys.stderr.isatty(),
        )
        self._lock = threading.RLock()
        self._gone = False
        self._next_frame = 0.0
        self._size = self._console.size
        # Laid out anew once something was told or the window changed; the spinner alone does not.
        self._screen: tuple[list[Text], int] | None = None
        self._phase = ""
        self._phase_shown = False
        self._turns = 0
        self._spinner: _Spinner | None = None
        self.frames = 0

    def observe(self, event: observer.TrainingEvent) -> None:
        """Take what is told, and show it at once or with the next frame that is due."""
        if event.kind in ("start", "phase", "step", "end"):
            # Before the lock is taken: the spinner draws under it.
            self._end_phase()
        with self._lock:
            self._record.observe(event)
            self._screen = None
            super().observe(event)

    def on_start(self, start: observer.RunStart) -> None:
        """Print the plan, which scrolls away, and open the screen."""
        plan = plan_table(start, min(self._console.width, _WIDEST_PLAN))
        self._write(lambda: self._console.print(plan, Text(), sep="\n"))
        self._draw()

    def on_phase(self, phase: observer.Phase) -> None:
        """Turn a spinner beside the phase's name; an empty one ends it."""
        self._phase = phase.name
        if self._phase_shown or (phase.name and self._record.latest is None):
            self._draw()
        if phase.name:
            # After the first step, a phase that ends at once is never shown: a flash tells
            # nobody anything.
            self._spinner = _Spinner(_SPINNER_PAUSE, self._turn)
            self._spinner.name, self._spinner.daemon = "spinner", True
            self._spinner.start()

    def on_step(self, report: observer.TrainingEvent) -> None:
        """Draw if the last frame is old enough."""
        if self._clock() >= self._next_frame:
            self._draw()

    on_evaluation = on_event = on_step

    def on_end(self, end: observer.RunEnd) -> None:
        """Replace the screen by what stays: curve, evaluations, sample, summary, next steps."""
        lines = final_lines(self._record, self._console)
        self._stop([*lines, Text(), *closing_lines(self._record)])

    def close(self) -> None:
        """Give the terminal back; after an error the last figures stay."""
        self._end_phase()
        with self._lock:
            if self._live.is_started:
                lines, _ = training_screen(self._record, self._console)
                self._stop(lines if self._record.start else [])

    def _end_phase(self) -> None:
        if self._spinner is not None:
            self._spinner.cancel()
            self._spinner.join()
            self._spinner = None
        self._phase = ""

    def _turn(self) -> None:
        with self._lock:
            self._turns += 1
            self._draw()

    def _draw(self) -> None:
        """Draw a frame now; then not again for a while."""
        before = self._clock()
        size = self._console.size
        resized = size != self._size
        if self._screen is None or resized:
            self._screen = training_screen(self._record, self._console)
        lines, phase_line = self._screen
        if self._phase:
            spinner = _SPINNER[self._turns % len(_SPINNER)]
            lines = list(lines)
            lines[phase_line] = Text().append(f"{spinner} ", "cyan").append(self._phase, "dim")
        self._phase_shown = bool(self._phase)
        self._write(lambda: self._show(lines, resized))
        self._size = size
        self.frames += 1
        cost = self._clock() - before
        pause = min(_LONGEST_PAUSE, max(_SHORTEST_PAUSE, _PAUSE_PER_DRAWING * cost))
        self._next_frame = before + pause

    def _show(self, lines: list[Text], resized: bool) -> None:
        if resized:
            # Lines that the terminal wrapped anew can't be found again; start afresh.
            self._console.control(Control.home(), Control.clear())
        self._live.start()
        self._live.update(Group(*lines), refresh=True)

    def _stop(self, lines: list[Text]) -> None:
        def write() -> None:
            self._live.stop()
            self._console.print(*lines, sep="\n", soft_wrap=True)

        self._write(write)
        # Also when the terminal went away: sys.stdout and sys.stderr are to be given back.
        with contextlib.suppress(OSError, ValueError):
            self._live.stop()

    def _write(self, write: Callable[[], None]) -> None:
        """Let the terminal show at once what is written.

        If it went away, be silent: training goes on without it.
        """
        if self._gone:
            return
        try:
            with self._console:
                self._console.control(_BEGIN_FRAME)
                write()
                self._console.control(_END_FRAME)
        except (OSError, ValueError):
            self._gone = True


class _Spinner(threading.Timer):
    """Calls a function at a steady pace from a thread until cancelled."""

    def run(self) -> None:
        while not self.finished.wait(self.interval):
            self.function()
