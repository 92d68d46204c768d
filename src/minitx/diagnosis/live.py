"""Look for anomalies while a run trains: all detectors behind the one that the loop calls."""

from __future__ import annotations

import dataclasses
import math
from functools import cache
from typing import Any, TypeVar

import torch
from torch import Tensor

from minitx.compute import Compute
from minitx.config import TrainConfig
from minitx.corpus.answer_targets import Answers
from minitx.diagnosis.curves import CurveDetector, Moment
from minitx.diagnosis.findings import instability
from minitx.diagnosis.inside import InsideDetector, probe, probe_windows
from minitx.diagnosis.losses import LEVEL, LossDetector
from minitx.diagnosis.nonfinite import first_nonfinite
from minitx.evaluation.arrays import IdArray
from minitx.evaluation.ngrams import bigram_loss
from minitx.files import as_plain
from minitx.model import Transformer
from minitx.training.batches import Batches
from minitx.training.hooks import Anomaly, AnomalyDetector
from minitx.training.observer import Event, HealthReport, ProbeReport, TrainingObserver
from minitx.training.team import ALONE, Team

HEALTH_STEPS = 10
"""Fewest steps from one report to the next: a copy of the weights costs a little."""

Detector = TypeVar("Detector", LossDetector, CurveDetector, InsideDetector)


class LiveDiagnosis(AnomalyDetector):
    """Tells the observer what it finds, and the loop what it may have to act on.

    Args:
        model: in training, by `config` and `compute`.
        batches: of the run, to compute a bad one again.
        train_ids, holdout_ids: `(tokens,)` of both parts.
        observer: told of findings, health and probes.
        meter: of the updates; that of the model if left out.
        answers: of conversations, in the holdout or, without one, in the train part.
    """

    def __init__(
        self,
        model: Transformer,
        config: TrainConfig,
        compute: Compute,
        batches: Batches,
        train_ids: IdArray,
        holdout_ids: IdArray,
        observer: TrainingObserver,
        meter: UpdateMeter | None = None,
        answers: Answers | None = None,
    ) -> None:
        self._model, self._config, self._compute = model, config, compute
        self._batches, self._observer = batches, observer
        self._uniform_loss = math.log(model.config.vocab_size)
        self._meter = meter or UpdateMeter(model, config.log_every)
        text = holdout_ids if len(holdout_ids) > 1 else train_ids
        self._windows = probe_windows(text, model.config.context_length)
        self._pair_loss = cache(
            lambda: bigram_loss(train_ids, holdout_ids, model.config.vocab_size, answers)
        )
        self._losses = LossDetector(self._uniform_loss)
        self._curves = CurveDetector()
        self._inside = InsideDetector()

    def on_loss(self, step: int, loss: float, gradient_norm: float) -> Anomaly | None:
        """Look for spikes, divergence and NaN."""
        anomaly = super().on_loss(step, loss, gradient_norm)
        if anomaly is not None:
            evidence = anomaly.what
            if not self._config.shard:  # No process has all that would have to be looked at.
                evidence += f"; {self._first_nonfinite(step)}"
            nonfinite = instability("not-a-number", step, evidence, self._config)
            self._observer.observe(nonfinite)
            return Anomaly(evidence, nonfinite.fix, step, is_fatal=True)
        finding = self._losses.on_loss(step, loss, gradient_norm, self._config)
        if finding is None:
            return None
        self._observer.observe(finding)
        since = step if finding.name == "loss-spike" else step - LEVEL + 1
        return Anomaly(f"{finding.name}: {finding.message}", finding.fix, since, is_fatal=False)

    def before_update(self, step: int, gradient_norms: Tensor) -> None:
        """Remember the weights, now and then."""
        self._meter.before_update(step, gradient_norms)

    def after_update(self, step: int) -> None:
        """Tell how far each layer moved, now and then."""
        report = self._meter.after_update(step)
        if report is not None:
            self._observer.observe(report)

    def on_evaluation(
        self, step: int, train_loss: float, holdout_loss: float, rate_factor: float, is_last: bool
    ) -> None:
        """Look inside the model and at the curves."""
        findings: list[Event] = []
        report = self.look(step)
        if report is not None:
            self._observer.observe(report)
            findings += self._inside.on_probe(report)
        # Where something worse happened, that is why little was learned.
        is_last = is_last and not self._inside.told and "divergence" not in self._losses.told
        moment = Moment(rate_factor, self._uniform_loss, self._pair_loss, is_last)
        findings += self._curves.on_evaluation(step, train_loss, holdout_loss, moment)
        for finding in findings:
            self._observer.observe(finding)

    def look(self, step: int = 0) -> ProbeReport | None:
        """What is seen inside the model; None without a holdout."""
        if self._windows is None:
            return None
        return probe(self._model, self._windows, step, self._compute, self._config.engine)

    def state(self) -> dict[str, Any]:
        """The fields of each detector."""
        detectors: dict[str, LossDetector | CurveDetector | InsideDetector]
        detectors = {"losses": self._losses, "curves": self._curves, "inside": self._inside}
        # JSON has no word for NaN and infinity.
        return {name: as_plain(dataclasses.asdict(kept)) for name, kept in detectors.items()}

    def restore(self, state: dict[str, Any]) -> None:
        """Give each detector the fields that it had."""
        try:
            self._losses = _restored(LossDetector, state["losses"])
            self._curves = _restored(CurveDetector, state["curves"])
            self._inside = _restored(InsideDetector, state["inside"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"the state of the diagnosis lacks {error}") from None

    def _first_nonfinite(self, step: int) -> str:
        passes = self._config.accumulation
        batches = (self._batches[i] for i in range((step - 1) * passes, step * passes))
        first = first_nonfinite(self._model, batches, self._compute)
        return f"the first NaN or infinity is in {first}" if first else "every tensor is finite"


def _restored(kind: type[Detector], fields: dict[str, Any]) -> Detector:
    # Copies, so that a state can be restored more than once.
    fields = {
        key: [math.nan if item is None else item for item in value]
        if isinstance(value, list)
        else value
        for key, value in fields.items()
    }
    return kind(**fields)


class UpdateMeter:
    """Gradient norm and update-to-weight ratio of each layer.

    Measures around the updates of a model, in some of the steps that are logged. If each process
    of a `team` has some rows of it, all of them measure."""

    def __init__(self, model: Transformer, log_every: int, team: Team = ALONE) -> None:
        self._team = team
        trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        self._parameters = [parameter.detach() for _, parameter in trained]
        self._every = log_every * max(1, -(-HEALTH_STEPS // log_every))
        layers = [layer_of(name) for name, _ in trained]
        self._layers = list(dict.fromkeys(layers))
        # (layers, parameters), 1 where a parameter belongs to a layer: sums by one product.
        belongs = torch.tensor([[name == layer for name in layers] for layer in self._layers])
        self._belongs = belongs.to(self._parameters[0].device, torch.float32)
        self._before: list[Tensor] | None = None
        self._gradient_norms = self._belongs[0]

    def before_update(self, step: int, gradient_norms: Tensor) -> None:
        """Remember the weights if a report is due."""
        if step % self._every == 0:
            self._before = [parameter.clone() for parameter in self._parameters]
            self._gradient_norms = gradient_norms

    def after_update(self, step: int) -> HealthReport | None:
        """The report, if one is due."""
        if self._before is None:
            return None
        weights = torch.stack(torch._foreach_norm(self._before))
        torch._foreach_sub_(self._before, self._parameters)
        updates = torch.stack(torch._foreach_norm(self._before))
        self._before = None
        sums = torch.stack((self._gradient_norms.float(), updates, weights)).square()
        if self._team.size > 1:
            self._team.add_up(sums[1:])
        by_layer = (self._belongs @ sums.T).sqrt()
        rows = torch.stack((by_layer[:, 0], by_layer[:, 1] / by_layer[:, 2].clamp_min(1e-30)))
        gradients, ratios = rows.tolist()
        return HealthReport(
            step=step,
            gradient_norms=dict(zip(self._layers, gradients, strict=True)),
            update_ratios=dict(zip(self._layers, ratios, strict=True)),
        )


class PartOfHealth(AnomalyDetector):
    """The detector of a process that has some rows of the model, and reports nothing itself."""

    def __init__(self, meter: UpdateMeter) -> None:
        self._meter = meter

    def before_update(self, step: int, gradient_norms: Tensor) -> None:
        """As the first process does."""
        self._meter.before_update(step, gradient_norms)

    def after_update(self, step: int) -> None:
        """As the first process does."""
        self._meter.after_update(step)


def layer_of(parameter: str) -> str:
    """The layer that a parameter belongs to: `embedding`, `blocks.0`, ..., `norm` or `head`."""
    parts = parameter.split(".")
    if parts[0] == "blocks":
        return ".".join(parts[:2])
    return "embedding" if parts[0] == "positions" else parts[0]
