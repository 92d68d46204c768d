"""How many steps fit a time budget.

The learning rate does not depend on the number of steps before its decay begins (see `schedule`).
So the number is settled no sooner than that: at the step from which a decay over the configured
fraction of the run would end with the budget. A machine is not as fast in the second half of a run
as in the first, so the number is looked at again during the decay, each time that a third of the
time left has passed, or of the steps; where it is far off, the decay goes on from where it stands
to another end.

Each decision of the clock is a pair: a step, and the number of steps from there on. They are part
of the configuration (`step_decisions`), and the rate at each step follows from it. So a run is
repeated to the bit by them, whatever the clock says then.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

from minitx.config import TrainConfig
from minitx.training.clock import SETTLING_STEPS
from minitx.training.schedule import decay_start

EARLIEST = 0.7
"""Part of the plateau's share of the time before which nothing is settled: the average of a few
steps may be far off."""

NEARLY_OUT = 0.05
"""Part of the time with which a run may end in its warmup."""

LOOK_AGAIN = 1 / 3
"""Part of the time left, or of the steps, after which the number of steps is looked at again."""

TOLERATED_OF_LEFT = 0.05
"""Part of the time left that a run may end too soon or too late by, as it looks now: so much is
within what the next look will find. ..."""

TOLERATED_OF_BUDGET = 0.005
"""... But no less than this part of the budget, which nobody minds."""


def is_early(config: TrainConfig, seconds_used: float, seconds_left: float) -> bool:
    """Whether so little of the plateau has passed that nothing is settled yet."""
    plateau = (1.0 - config.decay_fraction) * (seconds_used + seconds_left)
    return seconds_used < EARLIEST * plateau


def tolerated(seconds_left: float, budget: float) -> float:
    """Seconds that a run may end too soon or too late by."""
    return max(TOLERATED_OF_LEFT * seconds_left, TOLERATED_OF_BUDGET * budget)


@dataclass(frozen=True)
class Pace:
    """What the rest of a run will take.

    Attributes:
        step: seconds of an optimizer step, with its share of checkpoints.
        evaluation: seconds of a look at the holdout.
        closing: seconds after the last step: the loss of the whole holdout, the last checkpoint.
        evaluate_every: steps from one look at the holdout to the next; the last step has one, too.
    """

    step: float
    evaluation: float
    closing: float
    evaluate_every: int

    def seconds(self, step: int, steps: int) -> float:
        """From the end of step `step`, whose evaluation is not done yet, to that of the run."""
        looks = -(-steps // self.evaluate_every) - (step - 1) // self.evaluate_every
        return (steps - step) * self.step + looks * self.evaluation + self.closing

    def affordable(self, step: int, seconds_left: float) -> int:
        """Steps of the longest run that ends in time; `step` if no further one fits."""
        most = max(0, int(seconds_left / max(self.step, 1e-9)))
        later = range(step + 1, step + most + 2)
        return step + bisect_right(later, seconds_left, key=lambda n: self.seconds(step, n))


def steps_ending_at(config: TrainConfig, step: int) -> int:
    """Length of the run whose decay begins after `step` steps.

    A run can't be shorter than its warmup; one that has no plateau (`decay_fraction` 1) has no
    such length, and gets the shortest.
    """
    plateau = 1.0 - config.decay_fraction
    steps = round(step / plateau) if plateau > 0 else step + 1
    # Rounding may put the decay a step early: the plateau must not end in the past.
    while decay_start(config, steps) < step:
        steps += 1
    return max(steps, step + 1)


def settle_steps(
    config: TrainConfig, step: int, affordable: int, seconds_used: float, seconds_left: float
) -> int | None:
    """Decide, after `step` steps, whether the decay has to begin now.

    Args:
        config: of the schedule.
        step: steps done.
        affordable: steps of the longest run that ends in time (`Pace.affordable`).
        seconds_used: of the budget.
        seconds_left: until the budget ends.

    Returns:
        The number of steps of the whole run, or None to go on at the plateau. Never more than
        `max_steps`, if that is set, unless they are done already.
    """
    steps = _settled_by_time(config, step, affordable, seconds_used, seconds_left)
    most = config.max_steps
    if not most:
        return steps
    if steps is not None:
        return max(step, min(steps, most))
    # At the plateau's end of a run of that length, unless time ends sooner.
    return max(step, most) if step >= min(most, decay_start(config, most)) else None


def _settled_by_time(
    config: TrainConfig, step: int, affordable: int, seconds_used: float, seconds_left: float
) -> int | None:
    if step < min(config.warmup_steps, 1) + SETTLING_STEPS:
        return None
    if config.decay == "constant":
        return step if affordable <= step else None
    affordable = max(step + 1, affordable)
    if step < config.warmup_steps:
        # Time may run out before the warmup ends; then there is nothing to decay. What a few steps
        # took says little, so nothing is settled before it nearly has.
        late = seconds_left <= NEARLY_OUT * (seconds_used + seconds_left)
        return affordable if late and affordable == step + 1 else None
    if config.decay_fraction >= 1.0:
        return affordable
    if is_early(config, seconds_used, seconds_left):
        return None
    ending = steps_ending_at(config, step)
    return ending if ending >= affordable else None


def corrected_steps(
    config: TrainConfig, step: int, pace: Pace, seconds_left: float, budget: float
) -> int | None:
    """Decide, in the decay, whether it has to end at another step than was settled.

    Args:
        config: with at least one of `step_decisions`.
        step: steps done.
        pace: of the rest of the run.
        seconds_left: until the budget ends.
        budget: in seconds.

    Returns:
        The number of steps of the whole run, or None to leave it.
    """
    steps = config.step_decisions[-1][1]
    fitting = max(step + 1, pace.affordable(step, seconds_left))
    if config.max_steps:
        fitting = min(fitting, max(step + 1, config.max_steps))
    off = abs(fitting - steps) * pace.step
    return fitting if off > tolerated(seconds_left, budget) else None
