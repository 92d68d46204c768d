"""Plateau, overfitting, underfitting and a mismatched tokenizer, from the evaluations' losses."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from minitx.diagnosis.findings import Finding, finding

PLATEAU_PART = 0.5
"""The train loss must fall over this part of all steps done, the newest, ..."""

PLATEAU_EVALUATIONS = 6
"""... of at least so many evaluations: ..."""

PLATEAU_FALL = 0.005
"""... the second half of them must lie below the first by this part of the loss. Healthy runs fall
by four times that (`docs/diagnosis.md`)."""

LOWEST_RATE = 0.2
"""No plateau is reported below this fraction of the peak rate, where little is meant to happen."""

OVERFITTING_EVALUATIONS = 3
"""Evaluations after the best before overfitting is reported, ..."""

OVERFITTING_RISE = 0.02
"""... and how far above the best the holdout loss then is, as a part of it."""

FOREIGN = 1.02
"""A holdout is foreign to the train part if a bigram of the latter has more than this times the
uniform loss on it. Parts of one text stay below 1, however short and however different; ids that
mean something else come to 1.03 and more (`docs/diagnosis.md`)."""

STRANGE = 0.9
"""It may be foreign if the bigram has more than this part of the uniform loss, ..."""

LEARNED = 0.85
"""... and is if the model, with a train loss below this part of it, does worse than uniform."""

UNDERFITTING_MARGIN = 0.02
"""Part by which the loss must exceed that of the bigram."""

Baseline = Callable[[], float]


@dataclass
class CurveDetector:
    """Told each evaluation, in order. Its fields are its state.

    Attributes:
        steps, train, holdout: step and losses of each evaluation.
        told: names of the findings that hold and were told.
    """

    steps: list[int] = field(default_factory=list)
    train: list[float] = field(default_factory=list)
    holdout: list[float] = field(default_factory=list)
    told: list[str] = field(default_factory=list)

    def on_evaluation(
        self,
        step: int,
        train_loss: float,
        holdout_loss: float,
        rate_factor: float,
        uniform_loss: float,
        pair_loss: Baseline | None,
        is_last: bool = False,
    ) -> list[Finding]:
        """Look at one more evaluation.

        Args:
            step: optimizer steps done.
            train_loss: mean since the evaluation before, nats per token.
            holdout_loss: nats per token; NaN without a holdout.
            rate_factor: fraction of the peak learning rate in use.
            uniform_loss: of a uniform guess, nats.
            pair_loss: gives the loss on the holdout of a bigram of the train part, nats; None if
                the tokens are not at hand.
            is_last: no step follows, and nothing is known that would explain a high loss.
        """
        self.steps.append(step)
        self.train.append(train_loss)
        self.holdout.append(holdout_loss)
        findings = [
            self._new("mismatched-tokenizer", self._mismatch(uniform_loss, pair_loss)),
            self._new("overfitting", self._overfitting()),
            self._new("plateau", self._plateau(rate_factor)),
        ]
        if is_last and pair_loss is not None and not self.told:
            findings.append(self._new("underfitting", self._underfitting(pair_loss())))
        return [finding for finding in findings if finding is not None]

    def _new(self, name: str, evidence: str | None) -> Finding | None:
        # Reported once, and again only after it was over.
        if evidence is None:
            if name in self.told:
                self.told.remove(name)
            return None
        if name in self.told:
            return None
        self.told.append(name)
        return finding(name, self.steps[-1], evidence)

    def _mismatch(self, uniform_loss: float, pair_loss: Baseline | None) -> str | None:
        # By counts alone, so that neither training nor its arithmetic decides, where they do.
        holdout, train = self.holdout[-1], self.train[-1]
        if pair_loss is None or math.isnan(holdout):
            return None
        pairs = pair_loss()
        learned_in_vain = holdout > uniform_loss and train < LEARNED * uniform_loss
        if pairs > FOREIGN * uniform_loss:
            comparison = "worse than"
        elif pairs > STRANGE * uniform_loss and learned_in_vain:
            comparison = "little better than"
        else:
            return None
        return (
            f"a bigram of the train part has loss {pairs:.3g} on the holdout, {comparison} a "
            f"uniform guess ({uniform_loss:.3g}); the model's loss is {holdout:.3g} there, and "
            f"{train:.3g} on the train part"
        )

    def _overfitting(self) -> str | None:
        if math.isnan(self.holdout[-1]) or "mismatched-tokenizer" in self.told:
            return None
        best = min(range(len(self.holdout)), key=self.holdout.__getitem__)
        since = len(self.holdout) - 1 - best
        lowest, now = self.holdout[best], self.holdout[-1]
        # The mean before the best evaluation is of earlier steps, and so a little high.
        train_then = self.train[min(best + 1, len(self.train) - 1)]
        if since < OVERFITTING_EVALUATIONS or now < lowest * (1 + OVERFITTING_RISE):
            return None
        if self.train[-1] >= train_then:
            return None
        return (
            f"the holdout loss rose from {lowest:.4g} at step {self.steps[best]:,} to {now:.4g}, "
            f"while the train loss fell from {train_then:.4g} to {self.train[-1]:.4g}"
        )

    def _plateau(self, rate_factor: float) -> str | None:
        step = self.steps[-1]
        first = next(i for i, s in enumerate(self.steps) if s >= step * (1 - PLATEAU_PART))
        newest = self.train[first:]
        if len(newest) < PLATEAU_EVALUATIONS or rate_factor < LOWEST_RATE:
            return None
        half = len(newest) // 2
        before, after = sum(newest[:half]) / half, sum(newest[-half:]) / half
        if not after > before * (1 - PLATEAU_FALL):
            return None
        return (
            f"the train loss averaged {before:.4g} over {half} evaluations from step "
            f"{self.steps[first]:,} on, and {after:.4g} over the last {half}, to step {step:,}"
        )

    def _underfitting(self, pair_loss: float) -> str | None:
        train, holdout = self.train[-1], self.holdout[-1]
        enough = pair_loss * (1 + UNDERFITTING_MARGIN)
        # A low loss on the train part alone is no lack of fit.
        if not train > enough or holdout <= enough:
            return None
        holdout_too = "" if math.isnan(holdout) else f", and the holdout loss {holdout:.4g}"
        return (
            f"at the end the train loss is {train:.4g}{holdout_too}; counting which token follows "
            f"which (an interpolated bigram) reaches {pair_loss:.4g}"
        )
