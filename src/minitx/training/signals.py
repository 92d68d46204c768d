"""A request to stop, from Ctrl-C or the system, kept until the loop has a good moment.

Before the first step there is nothing to save, so there a signal stops at once.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

from minitx.errors import InterruptedRunError


class StopRequest:
    """While active, catches SIGINT, SIGTERM and SIGHUP.

    Until `defer` is called, the first of them raises KeyboardInterrupt. From then on the first is
    only noted, as `signal_number`, and a Ctrl-C after it raises KeyboardInterrupt.
    """

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self.deferring = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        # Python lets only the main thread set handlers; elsewhere the caller keeps its own.
        if threading.current_thread() is threading.main_thread():
            for name in {"SIGINT", "SIGTERM", "SIGHUP"} & signal.Signals.__members__.keys():
                number = signal.Signals[name]
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    def defer(self) -> None:
        """From now on, only note the first signal: there is something to save."""
        self.deferring = True

    def _note(self, number: int, frame: FrameType | None) -> None:
        first = self.signal_number is None
        if first:
            self.signal_number = number
        if (first and not self.deferring) or (not first and number == signal.SIGINT):
            raise KeyboardInterrupt

    @property
    def exit_signal(self) -> int | None:
        """Number that the exit code tells: SIGHUP counts as SIGTERM."""
        if self.signal_number is None or self.signal_number == signal.SIGINT:
            return self.signal_number
        return int(signal.SIGTERM)


@contextlib.contextmanager
def interrupted_before_steps(stop: StopRequest, fix: str) -> Iterator[None]:
    """Turn a stop before `stop.defer` was called into an InterruptedRunError with this fix."""
    try:
        yield
    except KeyboardInterrupt:
        number = stop.exit_signal
        if stop.deferring or number is None:
            raise
        raise InterruptedRunError("stopped before the first step", fix, number) from None
