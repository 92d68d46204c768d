"""Look back at a run: what its `metrics.jsonl` and its last checkpoint say.

What was found while it trained stands in the metrics as events. The losses there are checked again
all the same, since a run may have been cut before its end, or written by an older version.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from minitx.compute import Compute
from minitx.config import RunConfig
from minitx.corpus import EncodedCorpus
from minitx.diagnosis.curves import CurveDetector
from minitx.diagnosis.findings import KINDS, Finding, finding
from minitx.diagnosis.inside import InsideDetector
from minitx.diagnosis.losses import LossDetector, bigram_loss, uniform_loss
from minitx.diagnosis.nonfinite import broken_weight
from minitx.diagnosis.probes import probe, probe_windows
from minitx.diagnosis.results import Check, Seen
from minitx.evaluation.scoring import score
from minitx.inspection.mask_check import check_mask
from minitx.model import Transformer
from minitx.tokenizer import Tokenizer

_SCORED_TOKENS = 20_000


def review_metrics(
    records: Iterable[dict[str, Any]], config: RunConfig
) -> tuple[list[Seen], list[Check]]:
    """Collect what was found while a run trained, and check its losses again.

    Args:
        records: lines of `metrics.jsonl`, in order; what does not fit is passed over.
        config: of the run.
    """
    told: list[Finding] = []
    recomputed: list[Finding] = []
    uniform = uniform_loss(config.model.vocab_size)
    losses = LossDetector(uniform)
    curves = CurveDetector()
    rollbacks: list[int] = []
    health: list[Check] = []
    rate, n_steps, last_step = 1.0, 0, 0
    for record in records:
        try:
            step = record["step"]
            if record["kind"] == "event" and record["name"] in KINDS:
                texts = [str(record.get(key, "")) for key in ("message", "cause", "fix")]
                told.append(Finding(str(record["name"]), int(step), *texts))
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
                recomputed += curves.on_evaluation(step, *pair, rate, uniform, None)
        except (AttributeError, KeyError, TypeError, ValueError):
            # A line written by another version.
            continue
    logged = f"{n_steps:,} logged step{'s' if n_steps != 1 else ''}"
    checks = [
        Check("metrics", f"{logged}, to step {last_step:,}"),
        Check("evaluations", f"{len(curves.steps):,}"),
        Check("alarms", f"{len(told):,} while it trained"),
    ]
    if rollbacks:
        checks.append(Check("rollbacks", f"{len(rollbacks):,}, the last at step {rollbacks[-1]:,}"))
    return merged([*told, *recomputed], len(told)), [*checks, *health]


def review_model(
    model: Transformer,
    tokenizer: Tokenizer,
    corpus: EncodedCorpus,
    step: int,
    compute: Compute,
    engine: str,
    judge_fit: bool,
) -> tuple[list[Seen], list[Check]]:
    """Look inside a checkpoint.

    Args:
        model, tokenizer, step: of the checkpoint; left as they were.
        corpus: what the run learned from.
        compute: device and number format in which the run trained.
        engine: that trained it.
        judge_fit: it is the end of a run in which nothing went wrong, so that it should have
            learned by now.
    """
    weight = broken_weight(model)
    if weight is not None:
        broken = finding("not-a-number", step, f"{weight} of the checkpoint")
        return merged([broken]), [Check("weights", f"{weight} is NaN or infinite")]
    looks = [
        _tokenizer(tokenizer, corpus, step),
        _holdout(model, corpus, step),
        _mask(model, corpus, step, compute, engine),
        _inside(model, corpus, step, compute, engine),
    ]
    if judge_fit and not any(findings for findings, _ in looks):
        looks.append(_underfitting(model, corpus, step))
    checks = [Check("weights", "all are finite"), *(check for _, check in looks)]
    return merged([finding for findings, _ in looks for finding in findings]), checks


def merged(findings: list[Finding], n_told: int | None = None) -> list[Seen]:
    """One entry for each name, errors first; the first `n_told` count, others only add names."""
    by_name: dict[str, Seen] = {}
    for index, new in enumerate(findings):
        seen = by_name.setdefault(new.name, Seen(new, 0, new.step))
        if n_told is None or index < n_told or not seen.times:
            by_name[new.name] = Seen(seen.finding, seen.times + 1, new.step)
    return merged_seen(list(by_name.values()), [])


def merged_seen(first: list[Seen], second: list[Seen]) -> list[Seen]:
    """Both, errors first; what is in both is as in `first`."""
    by_name = {seen.finding.name: seen for seen in [*second, *first]}
    return sorted(
        by_name.values(), key=lambda seen: (seen.finding.severity != "error", seen.finding.step)
    )


def _health(record: dict[str, Any]) -> list[Check]:
    norms, ratios = (_range(record[key]) for key in ("gradient_norms", "update_ratios"))
    return [
        Check("gradients", f"norm by layer at step {int(record['step']):,}: {norms}"),
        Check("updates", f"to weights by layer: {ratios}"),
    ]


def _range(by_layer: dict[str, float]) -> str:
    (least, low), *_, (most, high) = sorted(by_layer.items(), key=lambda item: float(item[1]))
    return f"{low:.2g} ({least}) to {high:.2g} ({most})"


def _step(losses: LossDetector, record: dict[str, Any], config: RunConfig) -> list[Finding]:
    loss, norm = float(record["loss"]), float(record["gradient_norm"])
    if not (math.isfinite(loss) and math.isfinite(norm)):
        return [finding("not-a-number", record["step"], f"loss {loss}, gradient norm {norm}")]
    new = losses.on_loss(record["step"], loss, norm, config.train)
    return [] if new is None else [new]


def _tokenizer(
    tokenizer: Tokenizer, corpus: EncodedCorpus, step: int
) -> tuple[list[Finding], Check]:
    if tokenizer.has_digest(corpus.tokenizer_digest):
        return [], Check("tokenizer", "the one that encoded the corpus")
    evidence = (
        f"the checkpoint's tokenizer has the digest {tokenizer.digest[:12]}, and the corpus was "
        f"encoded with {corpus.tokenizer_digest[:12]}"
    )
    cause = "tokenizer.json or the data directory was replaced after training"
    fix = "Restore them from a copy of the run, or train again"
    mismatch = finding("mismatched-tokenizer", step, evidence, cause, fix)
    return [mismatch], Check("tokenizer", "not the one that encoded the corpus")


def _holdout(model: Transformer, corpus: EncodedCorpus, step: int) -> tuple[list[Finding], Check]:
    if len(corpus.holdout_ids) < 2:
        return [], Check("holdout", "there is none")
    loss = score(model, corpus.holdout_ids, max_tokens=_SCORED_TOKENS).loss
    train = score(model, corpus.train_ids, max_tokens=_SCORED_TOKENS).loss
    uniform = uniform_loss(model.config.vocab_size)
    pairs = bigram_loss(corpus.train_ids, corpus.holdout_ids, model.config.vocab_size)
    # One evaluation: only what needs no history can be found.
    findings = CurveDetector().on_evaluation(step, train, loss, 0.0, uniform, lambda: pairs)
    losses = f"loss {loss:.4g} nats, on the train part {train:.4g}; a uniform guess has "
    return findings, Check("holdout", f"{losses}{uniform:.4g}, a bigram {pairs:.4g}")


def _mask(
    model: Transformer, corpus: EncodedCorpus, step: int, compute: Compute, engine: str
) -> tuple[list[Finding], Check]:
    checked = check_mask(model, corpus.train_ids, compute=compute, engine=engine)
    for path in checked.paths:
        if path.leak is not None:
            leak = path.leak
            evidence = (
                f"{path.path}: with only the tokens after {leak.cut} changed, a logit at "
                f"{leak.position} moved by {leak.largest_change:.3g}; first in {leak.place}"
            )
            return [finding("leaky-mask", step, evidence)], Check("mask", f"leaks: {leak.place}")
    compared = sum(path.logits for path in checked.paths)
    return [], Check("mask", f"none of {compared:,} logits depends on a later token")


def _inside(
    model: Transformer, corpus: EncodedCorpus, step: int, compute: Compute, engine: str
) -> tuple[list[Finding], Check]:
    text = corpus.holdout_ids if len(corpus.holdout_ids) > 1 else corpus.train_ids
    windows = probe_windows(text, model.config.context_length)
    if windows is None:
        return [], Check("attention", "the text is too short")
    report = probe(model, windows, step, compute, engine)
    entropies = [entropy for heads in report.attention_entropy for entropy in heads]
    check = Check(
        "attention",
        f"entropy of heads {min(entropies):.2f} to {max(entropies):.2f} nats, uniform "
        f"{report.uniform_entropy:.2f}; scores up to {max(report.attention_score):.3g}; output "
        f"logits up to {report.output_logit:.3g}; dead MLP units at most "
        f"{max(report.dead_activations):.0%} of a layer",
    )
    return InsideDetector().on_probe(report), check


def _underfitting(
    model: Transformer, corpus: EncodedCorpus, step: int
) -> tuple[list[Finding], Check]:
    has_holdout = len(corpus.holdout_ids) > 1
    part = corpus.holdout_ids if has_holdout else corpus.train_ids
    loss = score(model, part, max_tokens=_SCORED_TOKENS).loss
    holdout = loss if has_holdout else math.nan
    uniform = uniform_loss(model.config.vocab_size)
    pairs = bigram_loss(corpus.train_ids, corpus.holdout_ids, model.config.vocab_size)
    findings = CurveDetector().on_evaluation(
        step, loss, holdout, 0.0, uniform, lambda: pairs, is_last=True
    )
    return findings, Check("bigram", f"counting which token follows which reaches {pairs:.4g}")
