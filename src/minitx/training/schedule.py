"""The learning rate over a run: warmup, plateau, decay.

A warmup keeps the first updates small while the optimizer's averages are still empty; a plateau
explores; the decay to (almost) zero settles into the valley. Hu et al. 2024 (MiniCPM, section 4)
call the shape warmup-stable-decay. Before the decay begins, the rate does not depend on the
number of steps, so a run can be lengthened without repeating it.
"""

from __future__ import annotations

import math

from minitx.config import TrainConfig
from minitx.training.state import TrainingState


def decay_start(config: TrainConfig, steps: int) -> int:
    """First step of the decay in a run of `steps` steps (`steps` itself if there is none)."""
    if config.decay == "constant":
        return steps
    return max(config.warmup_steps, steps - round(config.decay_fraction * steps))


def rate_factor(config: TrainConfig, step: int, steps: int) -> float:
    """Fraction of the peak learning rate in step `step`, from 0, of a run of `steps` steps.

    Never exactly 0: the first step already learns, and so does the last. What `config` says of
    steps is not read; its `step_decisions` count if they led to a run of `steps`.
    """
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    decisions = config.step_decisions
    if not decisions or decisions[-1][1] != steps:
        decisions = ((0, steps),)
    if step < decisions[0][0]:
        return 1.0
    end = decisions[0][1]
    # Steps over which the decay, as steep as it is now, would fall from 1 to 0.
    span: float = end - decay_start(config, end) + 1
    for decided_at, new_end in decisions[1:]:
        if step >= decided_at:
            span *= (new_end - decided_at) / (end - decided_at)
            end = new_end
    left = min(1.0, max(0.0, (end - step) / span))
    if config.decay == "cosine":
        left = 0.5 * (1.0 - math.cos(math.pi * left))
    return config.final_rate_fraction + (1.0 - config.final_rate_fraction) * left


def rate_of_run(config: TrainConfig, state: TrainingState, step: int) -> float:
    """The same in a run that may have gone back or been lengthened, or has a time budget.

    The step that counts is `step`, not the one in `state`.
    """
    if not state.steps_decided and not config.step_decisions:
        return state.rate_scale * min(1.0, (step + 1) / max(1, config.warmup_steps))
    factor = rate_factor(config, step, state.steps)
    if state.rewarm_step >= 0 and config.warmup_steps:
        factor *= min(1.0, (step + 1 - state.rewarm_step) / config.warmup_steps)
    return state.rate_scale * factor
