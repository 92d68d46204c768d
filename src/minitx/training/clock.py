"""What the parts of a training run take, in seconds."""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

from minitx.training.awake import AwakeClock

UNTIMED_STEPS = 3
"""First steps left out of the average: they allot memory and choose kernels."""

STALL = 20.0
"""How many times the average a step counts at most in it: a machine that hung for a while says
nothing about the steps to come."""

RECENT_STEPS = 5
"""Steps before and after a look at the holdout that say how busy the machine was meanwhile."""

Part = Literal["evaluation", "scoring", "saving"]
"""Of a run, beside its steps: a look at the holdout with all that belongs to it, the holdout loss
alone, and a checkpoint that is waited for."""


class Clock:
    """Seconds of training: in all, per step, and those that each part between the steps takes.

    Nothing that it says changes what is computed, but for the number of steps (see `budget`).
    """

    def __init__(self, earlier_seconds: float, now: Callable[[], float] = time.perf_counter):
        self._now = now
        self._earlier = earlier_seconds
        self._began = self._step_began = self._counted_until = now()
        self._session_steps = 0
        self._seconds, self._steps = 0.0, 0.0
        self._report_seconds, self._report_steps = 0.0, 0
        self._recent: deque[float] = deque(maxlen=RECENT_STEPS)
        # Seconds of the last save; of what is scored, how many steps it takes the time of.
        self._took: dict[Part, float] = {}
        # What was scored in the last steps: what `_took` was before, seconds, and those of a step.
        self._scored: dict[Part, tuple[float | None, float, float, int]] = {}

    def elapsed(self) -> float:
        """Seconds of training, earlier sessions included."""
        return self._earlier + self._now() - self._began

    def slept(self) -> float:
        """Seconds that passed and are no training, since the process could not run."""
        return self._now.slept if isinstance(self._now, AwakeClock) else 0.0

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
        self._recent.append(seconds)
        for part, (before, took, step, at) in list(self._scored.items()):
            if self._session_steps == at + RECENT_STEPS:
                # Others may have come in the middle of it.
                self._note(part, before, took / max(step, statistics.median(self._recent)))
                del self._scored[part]

    def pause_done(self) -> None:
        """What was neither forward, backward nor update does not count to the step's rate."""
        self._step_began = self._now()

    @contextmanager
    def timing(self, part: Part) -> Iterator[None]:
        """Measure a part of the run; later ones weigh more in what `seconds_of` says."""
        began = self._now()
        yield
        took, before = self._now() - began, self._took.get(part)
        if part == "saving" or not self._recent:
            self._note(part, before, took)
            return
        # Checkpoints are a share of each step; what is scored is not.
        self._counted_until = self._now()
        step = statistics.median(self._recent)
        self._scored[part] = (before, took, step, self._session_steps)
        self._note(part, before, took / max(step, 1e-9))

    def _note(self, part: Part, before: float | None, took: float) -> None:
        self._took[part] = took if before is None else (before + took) / 2

    def seconds_of(self, part: Part) -> float | None:
        """What a part will take; None if it was not measured yet.

        What is scored is measured in steps: a look at the holdout while others kept the machine
        busy, and so the steps around it long, says nothing about one when they are gone.
        """
        took = self._took.get(part)
        return took if took is None or part == "saving" else took * self.seconds_per_step()

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
