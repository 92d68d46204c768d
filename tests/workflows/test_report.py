"""What a report gathers about a run, and what it says of things that are not there."""

import hashlib
import json
import shutil

import pytest
import torch

from minitx import __version__
from minitx.checkpoint.rundir import RunDirectory
from minitx.errors import BadInputError
from minitx.workflows.report import ReportSettings, gather, gather_run

NOTHING = ReportSettings(eval=False, attn=False)


@pytest.fixture
def copied(tmp_path, tiny_run):
    shutil.copytree(tiny_run, tmp_path / "run")
    return tmp_path / "run"


def test_a_run_is_told_from_its_files(tiny_run):
    story = gather_run(RunDirectory.open(tiny_run), ReportSettings(max_tokens=300))
    records = [json.loads(line) for line in (tiny_run / "metrics.jsonl").open()]
    logged = [one for one in records if one["kind"] == "step"]
    assert story.history.steps.columns["loss"].tolist() == [one["loss"] for one in logged]
    assert [one.step for one in story.history.evaluations] == [40, 80, 120]
    assert all(one.sample for one in story.history.evaluations)
    assert set(story.history.gradient_norms.columns) >= {"embedding", "blocks.0", "blocks.1"}
    assert story.history.ending == "finished"
    assert story.checkpoint.name == f"step-{story.history.best.step:06d}"
    weights = (story.checkpoint / "model.safetensors").read_bytes()
    assert story.weights_digest == hashlib.sha256(weights).hexdigest()
    assert story.corpus.digest == json.loads((tiny_run / "data/corpus.json").read_text())["digest"]
    assert story.made_with["minitx"] == __version__
    assert story.made_with["torch"] == torch.__version__
    assert story.made_with["dtype"] == "float32"
    assert story.holdout.plain.tokens_scored <= 320
    assert story.study.prompt_from == "the beginning of the holdout"
    assert story.left_out == {}


def test_what_was_not_asked_for_is_left_out_and_said(tiny_run):
    story = gather_run(RunDirectory.open(tiny_run), NOTHING)
    assert story.holdout is story.study is None
    assert story.left_out == {"eval": "--no-eval was given", "attn": "--no-attn was given"}


def test_a_run_without_a_checkpoint_shows_its_metrics(copied):
    shutil.rmtree(copied / "checkpoints")
    (copied / "checkpoints").mkdir()
    story = gather_run(RunDirectory.open(copied), ReportSettings())
    assert len(story.history.steps)
    assert story.checkpoint is story.holdout is story.study is story.weights_digest is None
    assert "no checkpoint yet" in story.left_out["eval"]
    (copied / "metrics.jsonl").unlink()
    with pytest.raises(BadInputError, match="nothing to report yet"):
        gather_run(RunDirectory.open(copied), ReportSettings())


def test_a_run_of_an_earlier_version_or_with_damaged_data_is_told_as_far_as_it_goes(copied):
    for path in copied.glob("checkpoints/*/made_with.json"):
        path.unlink()
    (copied / "data/corpus.json").write_text("{")
    for path in copied.glob("checkpoints/*/manifest.json"):
        manifest = json.loads(path.read_text())
        assert "made_with.json" in manifest["files"]
    story = gather_run(RunDirectory.open(copied), ReportSettings(attn=False))
    assert story.made_with == {}
    assert story.corpus is None
    assert "corpus.json" in story.left_out["eval"]


def test_a_prompt_that_does_not_fit_is_an_error_not_a_gap(tiny_run):
    with pytest.raises(BadInputError, match="tokens"):
        gather([tiny_run], ReportSettings(eval=False, prompt="green " * 40))


def test_several_runs_are_compared_on_their_holdout(tiny_run, copied):
    stories = gather([tiny_run, copied], ReportSettings(max_tokens=300))
    assert [one.run.path for one in stories.runs] == [tiny_run, copied]
    assert stories.runs[0].holdout is None
    (test,) = stories.comparison.tests
    assert test.comparison.difference == 0
    assert gather([tiny_run, copied], NOTHING).left_out == "--no-eval was given"


def test_runs_that_can_not_be_compared_are_still_shown_together(tiny_run, copied):
    with (copied / "data/holdout.txt").open("a") as file:
        file.write("more")
    stories = gather([tiny_run, copied], ReportSettings())
    assert stories.comparison is None
    assert stories.left_out
    shutil.rmtree(copied / "checkpoints")
    (copied / "checkpoints").mkdir()
    stories = gather([tiny_run, copied], ReportSettings())
    assert "no checkpoint yet" in stories.left_out


def test_a_run_is_named_once(tiny_run):
    with pytest.raises(BadInputError, match="named twice"):
        gather([tiny_run, tiny_run / "checkpoints"], NOTHING)
