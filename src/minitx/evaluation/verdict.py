"""Under-, over- or well fitted: what the two losses say, and why.

The loss on text that was trained on is compared with the loss on text that was not, on as many
tokens of each. If they hardly differ, the model could still learn more from this text; if they
differ much, it has learned things that hold for the train part alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Fit = Literal["underfitted", "well fitted", "overfitted"]

SMALL_GAP = 0.03
"""Gap, as part of the train loss, up to which a model is underfitted."""

LARGE_GAP = 0.20
"""Gap from which on it is overfitted."""

RISE = 0.01
"""Rise of the holdout loss above its best, as part of it, that tells overfitting by itself."""


@dataclass(frozen=True)
class Verdict:
    """How well a model fits its corpus.

    Attributes:
        gap: holdout loss less train loss, nats per token.
        gap_share: the same as part of the train loss.
    """

    fit: Fit
    reason: str
    advice: str
    gap: float
    gap_share: float


def judge(
    train_loss: float,
    holdout_loss: float,
    history: Sequence[tuple[int, float]] = (),
    step: int | None = None,
    beaten_by: str | None = None,
) -> Verdict:
    """Compare the losses on both parts.

    Args:
        train_loss, holdout_loss: nats per token.
        history: steps and holdout losses of the run's evaluations, in order.
        step: of the checkpoint; evaluations after it don't count.
        beaten_by: a baseline that does better than the model.
    """
    gap = holdout_loss - train_loss
    share = gap / train_loss if train_loss > 0 else 0.0
    apart = (
        f"holdout loss is {gap:.3f} nats ({100 * share:.0f} %) above train loss"
        if gap > 0
        else "holdout loss is no higher than train loss"
    )
    rise = _rise(history, step)
    less_capacity = "More text, fewer steps, more dropout or a smaller model would help"
    fit: Fit
    if beaten_by is not None and share < LARGE_GAP:
        fit, advice = "underfitted", "Train for more steps"
        reason = f"{apart}, and {beaten_by} does better"
    elif rise is not None:
        fit = "overfitted"
        reason = f"{apart}; it was lower, {rise[1]:.3f}, at step {rise[0]:,} and has risen since"
        advice = f"Use the best checkpoint; {less_capacity[0].lower()}{less_capacity[1:]}"
    elif share >= LARGE_GAP:
        fit, reason, advice = "overfitted", apart, less_capacity
    elif share <= SMALL_GAP:
        fit, advice = "underfitted", "More steps or a larger model would lower both"
        reason = f"{apart}: it has not yet learned what this text can teach"
    else:
        fit, advice = "well fitted", "More text would help most"
        reason = f"{apart}: it learned from the train part, and most of that holds elsewhere"
    return Verdict(fit, reason, advice, gap, share)


def _rise(history: Sequence[tuple[int, float]], step: int | None) -> tuple[int, float] | None:
    """Best step and its loss, if the last loss up to a step is notably above it."""
    so_far = [entry for entry in history if step is None or entry[0] <= step]
    if not so_far:
        return None
    best = min(so_far, key=lambda entry: entry[1])
    last = so_far[-1][1]
    return best if last > best[1] * (1 + RISE) else None
