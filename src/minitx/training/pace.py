"""How many steps fit a time budget.

The learning rate does not depend on the number of steps before its decay begins (see `schedule`).
So the number is settled no sooner than that: at the step from which a decay over the configured
fraction of the run would end with the budget. The run is then, step for step, the run that
``--steps`` with that number would have been.
"""

from __future__ import annotations

from minitx.config import TrainConfig
from minitx.training.schedule import decay_start

SETTLING_STEPS = 3
"""First steps left out of the average: they allot memory and choose kernels."""


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


EARLIEST = 0.7
"""Part of the plateau's share of the time before which nothing is settled: the average of a few
steps may be far off."""


def settle_steps(
    config: TrainConfig,
    step: int,
    seconds_per_step: float,
    seconds_used: float,
    seconds_left: float,
) -> int | None:
    """Decide, after `step` steps, whether the decay has to begin now.

    Args:
        config: of the schedule.
        step: steps done.
        seconds_per_step: average, with evaluations and checkpoints.
        seconds_used: of the budget.
        seconds_left: until the budget ends.

    Returns:
        The number of steps of the whole run, or None to go on at the plateau. Never more than
        `max_steps`, if that is set, unless they are done already.
    """
    steps = _affordable_steps(config, step, seconds_per_step, seconds_used, seconds_left)
    most = config.max_steps
    if not most:
        return steps
    if steps is not None:
        return max(step, min(steps, most))
    # At the plateau's end of a run of that length, unless time ends sooner.
    return max(step, most) if step >= min(most, decay_start(config, most)) else None


def _affordable_steps(
    config: TrainConfig,
    step: int,
    seconds_per_step: float,
    seconds_used: float,
    seconds_left: float,
) -> int | None:
    if step < min(config.warmup_steps, 1) + SETTLING_STEPS:
        return None
    affordable = step + max(1, int(seconds_left / max(seconds_per_step, 1e-9)))
    if config.decay == "constant":
        return step if seconds_left <= 0 else None
    if step < config.warmup_steps:
        # Time may run out before the warmup ends; then there is nothing to decay.
        return max(step, affordable) if affordable <= config.warmup_steps else None
    if config.decay_fraction >= 1.0:
        return affordable
    if seconds_used < EARLIEST * (1.0 - config.decay_fraction) * (seconds_used + seconds_left):
        return None
    ending = steps_ending_at(config, step)
    return ending if ending >= affordable else None
