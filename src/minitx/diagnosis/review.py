"""Look back at a run: what its `metrics.jsonl` and its last checkpoint say.

What was found while it trained stands in the metrics as events. The losses there are checked again
all the same, since a run may have been cut before its end, or written by an older version.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from minitx.compute import Compute
from minitx.config import RunConfig
from minitx.corpus import EncodedCorpus
from minitx.corpus.answer_targets import answers_in
from minitx.diagnosis.curves import CurveDetector, Moment
from minitx.diagnosis.findings import KINDS, finding
from minitx.diagnosis.inside import InsideDetector, probe, probe_windows
from minitx.diagnosis.losses import LossDetector
from minitx.diagnosis.nonfinite import broken_weight
from minitx.evaluation.arrays import IdArray
from minitx.evaluation.ngrams import bigram_loss
from minitx.evaluation.scoring import score, windows_for
from minitx.evaluation.verdict import judge
from minitx.inspection.mask_check import check_mask
from minitx.model import Transformer
from minitx.tokenizer import Tokenizer
from minitx.training.observer import Event

_SCORED_TOKENS = 20_000


@dataclass(frozen=True)
class Seen:
    """A finding as it was the first time, how often it was found, and the step of the last time."""

    finding: Event
    times: int
    last_step: int


@dataclass(frozen=True)
class Diagnosis:
    """What was found in a run, errors first.

    Attributes:
        checkpoint: looked into; None if there is none.
        checks: everything that was checked, with the result in words and figures.
    """

    run: Path
    checkpoint: Path | None
    findings: tuple[Seen, ...]
    checks: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """As `minitx diagnose --json` prints it."""
        return {
            "run": str(self.run),
            "checkpoint": None if self.checkpoint is None else str(self.checkpoint),
            "findings": [
                {
                    "name": seen.finding.name,
                    "severity": seen.finding.severity,
                    "step": seen.finding.step,
                    "times": seen.times,
                    "last_step": seen.last_step,
                    "evidence": seen.finding.message,
                    "cause": seen.finding.cause,
                    "fix": seen.finding.fix,
                }
                for seen in self.findings
            ],
            "watched": sorted(KINDS.names()),
            "checks": self.checks,
        }


def review_metrics(
    records: Iterable[dict[str, Any]], config: RunConfig
) -> tuple[list[Event], list[Event], dict[str, str], CurveDetector]:
    """What was found while a run trained, what is found now in its losses, and what was checked.

    Of `records`, the lines of `metrics.jsonl`, what does not fit is passed over. The curves are
    those of its evaluations.
    """
    told: list[Event] = []
    recomputed: list[Event] = []
    uniform = math.log(config.model.vocab_size)
    losses = LossDetector(uniform)
    curves = CurveDetector()
    rollbacks: list[int] = []
    health: dict[str, str] = {}
    evaluations: list[tuple[int, float, float, float]] = []
    rate, n_steps, last_step = 1.0, 0, 0
    for record in records:
        try:
            step = record["step"]
            if record["kind"] == "event" and record["name"] in KINDS.names():
                texts = [str(record.get(key, "")) for key in ("message", "cause", "fix")]
                told.append(finding(str(record["name"]), int(step), *texts))
            elif record["kind"] == "event" and record["name"] == "rollback":
                rollbacks.append(step)
            elif record["kind"] == "health":
                health = _health(record)
            elif record["kind"] == "step":
                peak = config.train.learning_rate
                rate = float(record["learning_rate"]) / peak if peak else 0.0
                n_steps, last_step = n_steps + 1, step
                recomputed += _step(losses, record, config)
            elif record["kind"] == "evaluation":
                pair = (float(record["train_loss"]), float(record["holdout_loss"]))
                evaluations.append((int(step), *pair, rate))
        except (AttributeError, KeyError, TypeError, ValueError):
            # A line written by another version.
            continue
    for number, (step, train, holdout, rate) in enumerate(evaluations, start=1):
        moment = Moment(rate, uniform, None, is_last=number == len(evaluations))
        recomputed += curves.on_evaluation(step, train, holdout, moment)
    logged = f"{n_steps:,} logged step{'s' if n_steps != 1 else ''}"
    checks = {
        "metrics": f"{logged}, to step {last_step:,}",
        "evaluations": f"{len(curves.steps):,}",
        "alarms": f"{len(told):,} while it trained",
    }
    if rollbacks:
        checks["rollbacks"] = f"{len(rollbacks):,}, the last at step {rollbacks[-1]:,}"
    return told, recomputed, checks | health, curves


def merged(told: Iterable[Event], others: Iterable[Event]) -> tuple[Seen, ...]:
    """One entry for each name, errors first; the others only add names.

    A holdout of foreign ids explains a loss that rises there, as it does while a run trains.
    """
    by_name: dict[str, Seen] = {}
    for new in told:
        seen = by_name.get(new.name, Seen(new, 0, new.step))
        by_name[new.name] = Seen(seen.finding, seen.times + 1, new.step)
    for other in others:
        by_name.setdefault(other.name, Seen(other, 1, other.step))
    if "mismatched-tokenizer" in by_name:
        by_name.pop("overfitting", None)
    return tuple(
        sorted(by_name.values(), key=lambda s: (s.finding.severity != "error", s.finding.step))
    )


def _health(record: dict[str, Any]) -> dict[str, str]:
    norms, ratios = (_range(record[key]) for key in ("gradient_norms", "update_ratios"))
    return {
        "gradients": f"norm by layer at step {int(record['step']):,}: {norms}",
        "updates": f"to weights by layer: {ratios}",
    }


def _range(by_layer: dict[str, float]) -> str:
    (least, low), *_, (most, high) = sorted(by_layer.items(), key=lambda item: float(item[1]))
    return f"{low:.2g} ({least}) to {high:.2g} ({most})"


def _step(losses: LossDetector, record: dict[str, Any], config: RunConfig) -> list[Event]:
    loss, norm = float(record["loss"]), float(record["gradient_norm"])
    if not (math.isfinite(loss) and math.isfinite(norm)):
        return [finding("not-a-number", record["step"], f"loss {loss}, gradient norm {norm}")]
    new = losses.on_loss(record["step"], loss, norm, config.train)
    return [] if new is None else [new]


@dataclass(eq=False)
class CheckpointReview:
    """Looks inside a checkpoint, and notes what it finds and what it checked.

    Attributes:
        model, tokenizer, step: of the checkpoint; left as they were.
        corpus: what the run learned from.
        compute, engine: device, number format and engine that it trained with.
        history: step and holdout loss of each evaluation of the run.
    """

    model: Transformer
    tokenizer: Tokenizer
    corpus: EncodedCorpus
    step: int
    compute: Compute
    engine: str
    history: Sequence[tuple[int, float]]
    findings: list[Event] = field(default_factory=list)
    checks: dict[str, str] = field(default_factory=dict)

    def look(self, judge_fit: bool) -> None:
        """Do all of it.

        With `judge_fit`, it is the end of a run in which nothing went wrong, so that it should
        have learned by now.
        """
        weight = broken_weight(self.model)
        if weight is not None:
            self._find("not-a-number", f"{weight} of the checkpoint")
            self.checks["weights"] = f"{weight} is NaN or infinite"
            return
        self.checks["weights"] = "all are finite"
        self._look_at_tokenizer()
        self._look_at_holdout()
        self._look_at_mask()
        self._look_inside()
        if judge_fit and not self.findings:
            self._look_for_underfitting()

    def _find(self, name: str, evidence: str, *cause_and_fix: str) -> None:
        self.findings.append(finding(name, self.step, evidence, *cause_and_fix))

    def _look_at_tokenizer(self) -> None:
        own, encoded_with = self.tokenizer.digest, self.corpus.tokenizer_digest
        if self.tokenizer.has_digest(encoded_with):
            self.checks["tokenizer"] = "the one that encoded the corpus"
            return
        self.checks["tokenizer"] = "not the one that encoded the corpus"
        self._find(
            "mismatched-tokenizer",
            f"the checkpoint's tokenizer has the digest {own[:12]}, and the corpus "
            f"was encoded with {encoded_with[:12]}",
            "tokenizer.json or the data directory was replaced after training",
            "Restore them from a copy of the run, or train again",
        )

    def _look_at_holdout(self) -> None:
        if not self._has_holdout:
            self.checks["holdout"] = "there is none"
            return
        # As many tokens of each part, as an evaluation does: the two must not disagree on the fit.
        n_scored = min(_SCORED_TOKENS, len(self.corpus.holdout_ids) - 1)
        loss = self._loss(self.corpus.holdout_ids, n_scored)
        train = self._loss(self.corpus.train_ids, n_scored)
        self._look_at_losses(train, loss, is_last=False)
        n_all = len(self.corpus.holdout_ids) - 1
        part = "" if n_scored == n_all else f" on the first {n_scored:,} of {n_all:,} tokens"
        losses = (
            f"loss {loss:.4g} nats{part}, {train:.4g} on as much of the train part; a uniform "
            "guess has "
        )
        self.checks["holdout"] = f"{losses}{self._uniform:.4g}, a bigram {self._pairs:.4g}"
        beaten_by = "counting 2-grams" if loss > self._pairs else None
        verdict = judge(train, loss, self.history, self.step, beaten_by)
        self.checks["fit"] = f"{verdict.fit}: {verdict.reason}"

    def _look_at_mask(self) -> None:
        train_ids = self.corpus.train_ids
        checked = check_mask(self.model, train_ids, compute=self.compute, engine=self.engine)
        leaking = next((path for path in checked.paths if path.leak is not None), None)
        if leaking is None or leaking.leak is None:
            compared = sum(path.logits for path in checked.paths)
            self.checks["mask"] = f"none of {compared:,} logits depends on a later token"
            return
        leak = leaking.leak
        self.checks["mask"] = f"leaks: {leak.place}"
        self._find(
            "leaky-mask",
            f"{leaking.path}: with only the tokens after {leak.cut} changed, a logit at "
            f"{leak.position} moved by {leak.largest_change:.3g}; first in {leak.place}",
        )

    def _look_inside(self) -> None:
        windows = probe_windows(self._text(), self.model.config.context_length)
        if windows is None:
            self.checks["attention"] = "the text is too short"
            return
        report = probe(self.model, windows, self.step, self.compute, self.engine)
        self.findings += InsideDetector().on_probe(report)
        entropies = [entropy for heads in report.attention_entropy for entropy in heads]
        self.checks["attention"] = f"output logits up to {report.output_logit:.3g}"
        if not entropies:  # a model of one's own
            return
        self.checks["attention"] = (
            f"entropy of heads {min(entropies):.2f} to {max(entropies):.2f} nats, uniform "
            f"{report.uniform_entropy:.2f}; scores up to {max(report.attention_score):.3g}; "
            f"output logits up to {report.output_logit:.3g}; dead MLP units at most "
            f"{max(report.dead_activations):.0%} of a layer"
        )

    def _look_for_underfitting(self) -> None:
        loss = self._loss(self._text())
        self._look_at_losses(loss, loss if self._has_holdout else math.nan, is_last=True)
        self.checks["bigram"] = f"counting which token follows which reaches {self._pairs:.4g}"

    @cached_property
    def _uniform(self) -> float:
        """Loss of a uniform guess, nats per token."""
        return math.log(self.model.config.vocab_size)

    @cached_property
    def _pairs(self) -> float:
        """Loss of a bigram, nats per token."""
        corpus, vocab_size = self.corpus, self.model.config.vocab_size
        answers = answers_in(self._text(), self.tokenizer)
        return bigram_loss(corpus.train_ids, corpus.holdout_ids, vocab_size, answers)

    @property
    def _has_holdout(self) -> bool:
        return len(self.corpus.holdout_ids) > 1

    def _text(self) -> IdArray:
        """The holdout, or the train part without one."""
        return self.corpus.holdout_ids if self._has_holdout else self.corpus.train_ids

    def _loss(self, ids: IdArray, n_scored: int = _SCORED_TOKENS) -> float:
        answers = answers_in(ids, self.tokenizer)
        windows = windows_for(self.model, max_tokens=n_scored, answers=answers)
        return score(self.model, ids, windows).loss

    def _look_at_losses(self, train: float, holdout: float, is_last: bool) -> None:
        """Find what needs no history."""
        moment = Moment(0.0, self._uniform, lambda: self._pairs, is_last)
        self.findings += CurveDetector().on_evaluation(self.step, train, holdout, moment)
