"""The learning rate over a run: warmup, plateau, decay.

A warmup keeps the first updates small while the optimizer's averages are still empty; a plateau
explores; the decay to (almost) zero settles into the valley. Hu et al. 2024 (MiniCPM, section 4)
call the shape warmup-stable-decay. Before the decay begins, the rate does not depend on the
number of steps, so a run can be lengthened without repeating it.
"""

from __future__ import annotations

import math

from minitx.config import TrainConfig


def decay_start(config: TrainConfig, steps: int) -> int:
    """First step of the decay in a run of `steps` steps (`steps` itself if there is none)."""
    if config.decay == "constant":
        return steps
    return max(config.warmup_steps, steps - round(config.decay_fraction * steps))


def rate_factor(config: TrainConfig, step: int, steps: int) -> float:
    """Fraction of the peak learning rate used in one step.

    Args:
        config: names the shape; its `steps` is not read.
        step: index of the step about to be done, from 0.
        steps: number of steps in the run.

    Returns:
        A number from 0 to 1. Never exactly 0: the first step already learns, and so does the
        last.
    """
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    start = decay_start(config, steps)
    if step < start:
        return 1.0
    left = max(0.0, (steps - step) / (steps - start + 1))
    if config.decay == "cosine":
        left = 0.5 * (1.0 - math.cos(math.pi * left))
    return config.final_rate_fraction + (1.0 - config.final_rate_fraction) * left
