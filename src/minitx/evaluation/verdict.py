"""Under-, over- or well fitted: what the two losses say, and why.

The loss on text that was trained on is compared with the loss on text that was not, on as many
tokens of each. If they hardly differ, the model could still learn more from this text; if they
differ much, it has learned things that hold for the train part alone. It is overfitted only if the
holdout loss rises, by the rule that training and diagnosis go by, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Fit = Literal[
    "underfitted",
    "well fitted",
    "memorizing, still improving",
    "memorizing, at its best",
    "overfitted",
]

SMALL_GAP = 0.03
"""Gap, as part of the train loss, up to which a model is underfitted."""

LARGE_GAP = 0.20
"""Gap from which on it memorizes the train part."""

RISE = 0.02
"""Rise of the holdout loss above its best, as part of it: evaluations vary by a percent."""

NEARLY_ZERO = 0.01
"""Loss, or rise of one, nats per token, below which parts of a loss say nothing."""


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
        step: of the checkpoint; a rise after it is not its own.
        beaten_by: counting which token follows which, if that does better than the model.
    """
    gap = holdout_loss - train_loss
    share = gap / train_loss if train_loss > 0 else 0.0
    apart = (
        f"holdout loss is {gap:.3f} nats ({100 * share:.0f} %) above train loss"
        if gap > 0
        else "holdout loss is no higher than train loss"
    )
    best = rise([entry for entry in history if step is None or entry[0] <= step])
    best_of_all = rise(history)
    less_capacity = "more text, more dropout or a smaller model would help"
    fit: Fit
    if best is not None and gap > 0:
        fit, advice = "overfitted", f"Use the best checkpoint; fewer steps, {less_capacity}"
        reason = f"{apart}; it was lower, {best[1]:.3f}, at step {best[0]:,} and has risen since"
    elif max(train_loss, holdout_loss) < NEARLY_ZERO:
        fit, advice = "well fitted", "Only another text would teach it more"
        reason = "both losses are nearly 0: it has learned all that this text can teach"
    elif beaten_by is not None and share < LARGE_GAP:
        fit, advice = "underfitted", "Train for more steps"
        reason = f"{apart}, and {beaten_by} does better"
    elif share >= LARGE_GAP and best_of_all is not None and best_of_all[0] <= (step or 0):
        fit, advice = "memorizing, at its best", f"Use this checkpoint; {less_capacity}"
        reason = f"{apart}, and rose after step {best_of_all[0]:,}"
    elif share >= LARGE_GAP:
        fit, advice = "memorizing, still improving", f"{less_capacity.capitalize()} most"
        reason = (
            f"{apart}, but does not rise: much of what it learns is of use on the train part alone"
        )
    elif share <= SMALL_GAP:
        fit, advice = "underfitted", "More steps or a larger model would lower both"
        reason = f"{apart}: it has not yet learned what this text can teach"
    else:
        fit, advice = "well fitted", "More text would help most"
        reason = f"{apart}: it learned from the train part, and most of that holds elsewhere"
    return Verdict(fit, reason, advice, gap, share)


def rise(history: Sequence[tuple[int, float]]) -> tuple[int, float] | None:
    """Step and holdout loss of the best evaluation, if the last is notably above it."""
    if not history:
        return None
    best = min(history, key=lambda entry: entry[1])
    return best if history[-1][1] > best[1] + max(RISE * best[1], NEARLY_ZERO) else None
