"""Loss scaling: what training in float16 needs so that small gradients do not vanish.

The smallest number of float16 is 6e-8, and many gradients are smaller. So the loss is multiplied
before the backward pass, and the gradients are divided afterwards. A step whose gradients overflow
is skipped and the factor halved; after many steps without, it is doubled (Micikevicius et al. 2018,
Mixed Precision Training, section 3.2).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from minitx.training.state import TrainingState

DOUBLED_AFTER = 2000
"""Steps without an overflow."""


class LossScale:
    """Keeps the factor, a power of two from 1 on, in the state of a run."""

    def __init__(self, state: TrainingState) -> None:
        self._state = state

    def divide(self, gradients: list[Tensor]) -> None:
        """Divide gradients by the factor, in their place: exactly, as it is a power of two."""
        torch._foreach_mul_(gradients, 1.0 / self._state.loss_scale)

    def skips(self, loss: float, gradient_norm: float) -> bool:
        """Adapt the factor after a step; whether its update has to be left out.

        It is where nothing but the scaled gradients overflowed. A loss that is no number, or
        gradients that overflow without a factor, are no matter of the scale.
        """
        state = self._state
        if math.isfinite(gradient_norm):
            state.scale_kept_for += 1
            if state.scale_kept_for == DOUBLED_AFTER:
                state.loss_scale, state.scale_kept_for = 2.0 * state.loss_scale, 0
            return False
        if not math.isfinite(loss) or state.loss_scale <= 1.0:
            return False
        state.loss_scale, state.scale_kept_for = 0.5 * state.loss_scale, 0
        state.skipped_steps += 1
        return True

    @property
    def is_news(self) -> bool:
        """Whether the number of skipped steps is one to tell: 1, 2, 4, 8 and so on."""
        return self._state.skipped_steps.bit_count() == 1

    @property
    def message(self) -> str:
        """What to tell then."""
        n = self._state.skipped_steps
        return (
            f"gradients overflowed float16, and the update was left out; {n:,} so far. The loss "
            f"scale is {self._state.loss_scale:g} now"
        )
