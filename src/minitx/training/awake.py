"""A clock that stands still while the process does."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

PERIOD = 0.5
"""Seconds from one look at the time to the next."""

LONGEST_WAIT = 3.0
"""Seconds that a thread may wait for its turn where others keep all processors busy. One that had
to wait longer was stopped, or slept with the machine."""


class AwakeClock:
    """Seconds in which this process could run; those between SIGSTOP and SIGCONT don't count.

    Nor do those in which a laptop sleeps, also where the system's own clock goes on meanwhile. A
    thread looks at the time twice a second: what it could not look at is no time of training. It
    looks only within the context that this is.

    Attributes:
        slept: seconds that did not count so far.
    """

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self.slept = 0.0
        self._now, self._lock, self._done = now, threading.Lock(), threading.Event()
        self._last = now()

    def __call__(self) -> float:
        """The time, in seconds from an arbitrary point."""
        # Whoever looks first after a sleep notes it, so that nobody sees it as time that passed.
        with self._lock:
            now = self._now()
            if now - self._last > LONGEST_WAIT:
                self.slept += now - self._last
            self._last = now
            return now - self.slept

    def __enter__(self) -> AwakeClock:
        self._last = self._now()
        self._thread = threading.Thread(target=self._look, name="awake", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._done.wait(PERIOD):
            self()
