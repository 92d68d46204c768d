"""Loss spikes and divergence, from the loss of every step.

Medians are used throughout: a few outliers, which are what is looked for, do not move them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median

from minitx.config import TrainConfig
from minitx.diagnosis.findings import Kind, instability
from minitx.training.hooks import LOWER_RATE
from minitx.training.observer import Event

# Steps before, with which a loss is compared, and how many there must be to report anything.
WINDOW = 48
FEWEST = 16

# A spike is so many robust standard deviations above the median of the window, at least so many
# nats, and at least this part of the median. For so many steps after it no other is reported.
SCATTERS = 8.0
SMALLEST_SPIKE = 0.3
PAUSE = 20

# Divergence: the level of the loss, over so many steps, is this many nats above the lowest before,
# and a fifth of it.
LEVEL = 16
RISE = 0.5


@dataclass
class LossDetector:
    """Takes each step's loss, in order. Its fields are its state.

    Attributes:
        losses, norms: losses and gradient norms of the last `WINDOW` steps.
        lowest: lowest level so far; it begins at the loss of a uniform guess, which any model can
            have.
        quiet_until: no spike is reported before this step.
        diverged: the level is above the lowest, and that was reported.
        told: names of all that was reported so far.
    """

    lowest: float
    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    quiet_until: int = 0
    diverged: bool = False
    told: list[str] = field(default_factory=list)

    def on_loss(self, step: int, loss: float, norm: float, config: TrainConfig) -> Event | None:
        """Look at one more step: loss and norm as in `AnomalyDetector.on_loss`, but finite."""
        spike = self._spike(step, loss, norm, config)
        self.losses = [*self.losses[1 - WINDOW :], loss]
        self.norms = [*self.norms[1 - WINDOW :], norm]
        finding = self._divergence(step, config) or spike
        if finding is not None and finding.name not in self.told:
            self.told.append(finding.name)
        return finding

    @Kind(
        "loss-spike",
        "warning",
        "a batch unlike the others (damaged text), or a learning rate that is barely stable",
        "Look at the text of that batch; train with --on-spike rollback to skip such batches",
    )
    def _spike(self, step: int, loss: float, norm: float, config: TrainConfig) -> Event | None:
        if len(self.losses) < FEWEST or step < self.quiet_until:
            return None
        usual = median(self.losses)
        # 1.4826 makes it the standard deviation where the scatter is normal.
        scatter = 1.4826 * median([abs(other - usual) for other in self.losses])
        if loss <= usual + max(SCATTERS * scatter, SMALLEST_SPIKE, SMALLEST_SPIKE * usual):
            return None
        self.quiet_until = step + PAUSE
        evidence = (
            f"loss {loss:.3g}, where the {len(self.losses)} steps before had a median of "
            f"{usual:.3g}; gradient norm {norm:.3g}, median {median(self.norms):.3g}"
        )
        return instability("loss-spike", step, evidence, config)

    @Kind(
        "divergence",
        "error",
        "the learning rate is too high for this model",
        LOWER_RATE,
    )
    def _divergence(self, step: int, config: TrainConfig) -> Event | None:
        if len(self.losses) < LEVEL:
            return None
        newest = sorted(self.losses[-LEVEL:])
        level, high = median(newest), newest[LEVEL // 4]
        above = self.lowest + max(RISE, 0.2 * self.lowest)
        self.lowest = min(self.lowest, level)
        if level <= above:
            self.diverged = False
        if self.diverged or high <= above:
            return None
        self.diverged = True
        evidence = (
            f"three quarters of the last {LEVEL} losses are above {high:.3g}, where "
            f"{self.lowest:.3g} was reached before; gradient norm "
            f"{median(self.norms[-LEVEL:]):.3g}"
        )
        return instability("divergence", step, evidence, config)
