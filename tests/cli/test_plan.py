"""`minitx plan`: what a run would take and reach, as a user sees it."""

import json

import pytest
import torch

from minitx.checkpoint.rundir import RunDirectory
from minitx.model import Transformer
from minitx.workflows import plan as plan_module

SMALL = ["--layers", "2", "--d-model", "32", "--context", "32", "--batch-size", "4",
         "--threads", "1"]  # fmt: skip


def planned(minitx, *arguments):
    done = minitx("plan", *arguments, "--json")
    assert done.code == 0, done
    return json.loads(done.out)


def test_a_plan_of_a_small_run_here(minitx, inside, verses):
    found = planned(minitx, verses, *SMALL, "--steps", "30", "--pilots", "1", "--kind", "char")
    assert found["steps"] == 30
    assert found["tokens"] == 30 * 4 * 32
    assert found["fits"] is True
    assert found["memory"]["peak"] < found["available"]
    assert 0 < found["loss"]["low"] < found["loss"]["loss"] < found["loss"]["high"]
    assert found["pilots"] > 1
    assert not list(inside.glob("runs*"))


def test_runs_on_the_same_text_are_used(minitx, inside, verses):
    run = ["--steps", "12", "--kind", "char", *SMALL]
    for n in ("1", "2"):
        assert minitx("train", verses, *run, "--seed", n).code == 0
    found = planned(minitx, verses, *run, "--pilots", "0")
    assert (found["pilots"], found["earlier"]) == (0, 2)
    metrics = sorted(inside.glob("runs/*"))[-1] / "metrics.jsonl"
    logged = [json.loads(line) for line in metrics.read_text().splitlines()]
    losses = [line["holdout_loss"] for line in logged if line["kind"] == "evaluation"]
    assert found["loss"]["loss"] == pytest.approx(losses[-1], rel=0.05)
    other = planned(minitx, verses, *run, "--pilots", "0", "--optimizer", "adamw")
    assert (other["earlier"], other["loss"]) == (0, None)


def test_a_plan_for_devices_elsewhere_makes_no_model(minitx, inside, verses, monkeypatch):
    def refuse(self, config):
        raise AssertionError("a model was made")

    made = Transformer.__init__
    monkeypatch.setattr(
        Transformer, "__init__",
        lambda self, config: made(self, config)
        if torch.empty(0).device.type == "meta" else refuse(self, config),
    )  # fmt: skip
    # The text here is short.
    shape = ["--layers", "32", "--d-model", "4096", "--context", "32", "--batch-size", "8"]
    asked = [verses, *shape, "--steps", "100", "--gpus", "8", "--device", "h200", "--pilots", "0"]
    whole, parts = planned(minitx, *asked), planned(minitx, *asked, "--shard")
    assert whole["parameters"] > 6e9
    assert parts["memory"]["weights"] == whole["memory"]["weights"] // 8
    assert (whole["fits"], parts["fits"]) == (True, True)
    assert planned(minitx, *asked, "--memory", "80")["fits"] is False


def test_a_table_for_people_fits_80_columns(minitx, inside, verses):
    done = minitx("plan", verses, *SMALL, "--steps", "30", "--pilots", "0", "--gpus", "8",
                  "--device", "h100")  # fmt: skip
    assert done.code == 0
    assert all(len(line) <= 80 for line in done.out.splitlines())
    for word in ("memory", "a step", "the run", "loss", "8 x h100", "waiting"):
        assert word in done.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--device", "h9"], "no figures of a device h9"),
        (["--gpus", "0"], "--gpus"), (["--memory", "-1"], "--memory"),
        (["--pilots", "soon"], "--pilots"), (["--layers", "0"], "n_layers"),
    ],
)  # fmt: skip
def test_what_can_not_be_planned_is_refused_in_one_line(minitx, inside, verses, arguments, said):
    done = minitx("plan", verses, *SMALL, "--steps", "5", *arguments)
    assert done.code == 2
    (line,) = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert said in line


def test_a_run_that_begins_with_a_trained_model(minitx, inside, verses, tiny_run):
    length = ["--steps", "40", "--batch-size", "4"]
    found = planned(minitx, verses, "--from", tiny_run, *length)
    assert found["model"]["d_model"] == 16
    assert (found["loss"], found["pilots"], found["best_size"]) == (None, 0, None)
    tuned = ["--from", tiny_run, *length, "--learning-rate", "0", "--muon-learning-rate", "0"]
    done = minitx("train", verses, *tuned, "--dtype", "float32", "--out", "run")
    assert done.code == 0, done.err
    lines = [json.loads(line) for line in (inside / "run/metrics.jsonl").read_text().splitlines()]
    (last,) = [line["holdout_loss"] for line in lines if line["kind"] == "evaluation"][-1:]
    assert found["loss_now"] == pytest.approx(last, rel=1e-2)  # The plan's is in bfloat16.
    same = ("optimizer", "learning_rate", "warmup_steps", "steps", "batch_size", "weight_decay")
    plain = planned(minitx, verses, "--from", tiny_run, *length)["train"]
    told = minitx("train", verses, "--from", tiny_run, *length, "--out", "other")
    assert told.code == 0, told.err
    noted = RunDirectory(inside / "other").read_config().train
    assert {key: plain[key] for key in same} == {key: getattr(noted, key) for key in same}
    # A run that began so tells nothing of new ones.
    assert planned(minitx, verses, *SMALL, *length, "--pilots", "0")["earlier"] == 0
    shown = minitx("plan", verses, "--from", tiny_run, *length).out
    assert "before the first step" in " ".join(shown.split())


def test_a_model_that_no_pilot_is_as_large_as_is_timed_itself(minitx, inside, verses, monkeypatch):
    tried, original = [], plan_module.pilot_run

    def noted(*arguments):
        tried.append(original(*arguments))
        return tried[-1]

    monkeypatch.setattr(plan_module, "pilot_run", noted)
    shape = ["--layers", "4", "--d-model", "128", "--context", "64", "--batch-size", "16"]
    found = planned(minitx, verses, *shape, "--threads", "1", "--steps", "30", "--kind", "char",
                    "--pilots", "1")  # fmt: skip
    (pilot,) = tried
    assert pilot.model.d_model == 128
    assert found["step"]["seconds"] == pilot.step_seconds
    # What its optimizer computes belongs to its rate.
    assert pilot.operations > 1.2 * pilot.model.flops_per_token * pilot.step_tokens
