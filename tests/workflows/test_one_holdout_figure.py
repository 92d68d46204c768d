"""A holdout loss says of which tokens it is, and is the same wherever it is of the same ones."""

import json

import pytest
from small_runs import TINY_MODEL, TINY_TRAIN

from minitx.checkpoint.rundir import RunDirectory, resolve_checkpoint
from minitx.config import EvaluationSettings, ReportSettings
from minitx.report.pages.run_page import run_values
from minitx.workflows.evaluate import evaluate_holdout
from minitx.workflows.report import gather_run
from minitx.workflows.train import TrainRequest, train


def trained(verses, out, **train_keys):
    settings = {**TINY_TRAIN, "steps": 20, "evaluate_every": 10, **train_keys}
    request = TrainRequest(
        data={"corpus": (str(verses),)}, model=TINY_MODEL, train=settings, out=out
    )
    done = train(request, [])
    lines = map(json.loads, (done.run / "metrics.jsonl").open())
    last = resolve_checkpoint(done.run, "last")
    report = evaluate_holdout(last, EvaluationSettings(quick=True))
    return done, [line for line in lines if line["kind"] == "evaluation"], report.plain


def facts(run, measured):
    settings = ReportSettings(attn=False, eval=measured)
    story = gather_run(RunDirectory.open(run), settings)
    return run_values(story, 0)["facts"], story.holdout


def test_a_part_is_named_as_that(tmp_path, verses):
    done, evaluations, plain = trained(verses, tmp_path / "run", evaluation_tokens=64)
    assert done.end.final_holdout_tokens == plain.tokens_scored
    assert done.end.final_holdout_loss == pytest.approx(plain.loss, rel=1e-6)
    assert done.end.best_holdout_tokens == 64
    assert {line["holdout_tokens"] for line in evaluations} == {64}
    # The headline of the page is the figure that it has below, if it has one.
    headline, holdout = facts(done.run, measured=True)
    assert headline["best holdout loss"] == f"{holdout.plain.loss:.4f}"
    assert headline["bits per byte"] == f"{holdout.plain.bits_per_byte:.4f}"
    assert headline["on holdout tokens"] == f"{plain.tokens_scored:,}"
    headline, _ = facts(done.run, measured=False)
    assert headline["best holdout loss"] == f"{done.end.best_holdout_loss:.4f}"
    assert headline["on holdout tokens"] == "64"


def test_the_whole_is_one_figure(tmp_path, verses):
    done, evaluations, plain = trained(verses, tmp_path / "run")
    assert done.end.best_holdout_tokens == done.end.final_holdout_tokens == plain.tokens_scored
    newest = evaluations[-1]
    assert newest["holdout_tokens"] == plain.tokens_scored
    assert newest["holdout_loss"] == pytest.approx(plain.loss, rel=1e-6)
    assert newest["holdout_bits_per_byte"] == pytest.approx(plain.bits_per_byte, rel=1e-6)
