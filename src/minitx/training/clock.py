"""What the parts of a training run take, in seconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

UNTIMED_STEPS = 3
"""First steps left out of the average: they allot memory and choose kernels."""

STALL = 20.0
"""How many times the average a step counts at most in it: a machine that hung for a while says
nothing about the steps to come."""

Part = Literal["evaluation", "scoring", "saving"]
"""Of a run, beside its steps: a look at the holdout with all that belongs to it, the holdout loss
alone, and a checkpoint that is waited for."""


class Clock:
    """Seconds of training: in all, per step, and those that each part between the steps `took`.

    Nothing that it says changes what is computed, but for the number of steps (see `budget`).
    """

    def __init__(self, earlier_seconds: float, now: Callable[[], float] = time.perf_counter):
        self._now = now
        self._earlier = earlier_seconds
        self._began = self._step_began = self._counted_until = now()
        self._session_steps = 0
        self._seconds, self._steps = 0.0, 0.0
        self._report_seconds, self._report_steps = 0.0, 0
        self.took: dict[Part, float] = {}

    def elapsed(self) -> float:
        """Seconds of training, earlier sessions included."""
        return self._earlier + self._now() - self._began

    def step_done(self) -> None:
        """Count a step; called at its end."""
        now = self._now()
        self._report_seconds += now - self._step_began
        self._report_steps += 1
        seconds = now - self._counted_until
        if self._steps:
            seconds = min(seconds, STALL * self._seconds / self._steps)
        if self._session_steps == UNTIMED_STEPS:
            self._seconds, self._steps = 0.0, 0.0
        self._seconds += seconds
        self._steps += 1
        self._session_steps += 1
        self._step_began = self._counted_until = now

    def pause_done(self) -> None:
        """What was neither forward, backward nor update does not count to the step's rate."""
        self._step_began = self._now()

    @contextmanager
    def timing(self, part: Part) -> Iterator[None]:
        """Measure a part of the run; later ones weigh more in what `took` says."""
        began = self._now()
        yield
        took = self._now() - began
        self.took[part] = (self.took.get(part, took) + took) / 2
        # Checkpoints are a share of each step; what is scored is not.
        if part != "saving":
            self._counted_until = self._now()

    def since_report(self) -> float:
        """Seconds per step since the last call, without evaluations and checkpoints."""
        seconds = self._report_seconds / max(1, self._report_steps)
        self._report_seconds, self._report_steps = 0.0, 0
        return seconds

    def seconds_per_step(self) -> float:
        """Average over the steps of this session, with checkpoints but without evaluations."""
        return self._seconds / self._steps if self._steps else self._now() - self._began

    def forget(self) -> None:
        """Let the steps so far weigh half as much in `seconds_per_step` as those to come."""
        self._seconds /= 2
        self._steps /= 2
