"""Training and what comes after it on a CUDA device; skipped without one."""

import json
import os
import signal

import pytest
import torch
from torch.testing import assert_close

from minitx.checkpoint import load_model
from minitx.checkpoint.rundir import RunDirectory
from minitx.errors import InterruptedRunError
from minitx.training.observer import TrainingObserver
from minitx.workflows.resume import ResumeRequest, resume
from minitx.workflows.train import TrainRequest, train

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")

MODEL = {"n_layers": 2, "n_heads": 2, "d_model": 32, "context_length": 32}
TRAIN = {
    "steps": 30, "batch_size": 4, "evaluate_every": 10, "checkpoint_every": 10, "log_every": 1,
    "device": "cuda", "dtype": "float32",
}  # fmt: skip


class Stopped(TrainingObserver):
    def __init__(self, step):
        self._step = step

    def on_step(self, report):
        if report.step == self._step:
            os.kill(os.getpid(), signal.SIGINT)


def request(verses, out, model=None, **keys):
    return TrainRequest(
        data={"corpus": (str(verses),)},
        model={**MODEL, **(model or {})},
        train={**TRAIN, **keys},
        out=out,
    )


def losses(run):
    lines = [json.loads(line) for line in run.joinpath("metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["kind"] == "step"]


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_losses_are_those_of_the_processor(verses, tmp_path, optimizer):
    here = train(request(verses, tmp_path / "cuda", optimizer=optimizer), []).run
    there = train(request(verses, tmp_path / "cpu", device="cpu", optimizer=optimizer), []).run
    assert_close(losses(here), losses(there), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_captured_run_has_the_losses_of_one_that_is_not(verses, tmp_path, accumulation):
    runs = [
        train(
            request(verses, tmp_path / engine, {"dropout": 0.1}, engine=engine,
                    accumulation=accumulation),
            [],
        ).run
        for engine in ("native", "plain")
    ]  # fmt: skip
    assert_close(losses(runs[0]), losses(runs[1]), rtol=1e-3, atol=1e-3)


def test_a_compiled_run_has_the_losses_of_one_that_is_not(verses, tmp_path):
    runs = [
        train(request(verses, tmp_path / engine, engine=engine), []).run
        for engine in ("torch-compile", "plain")
    ]
    assert_close(losses(runs[0]), losses(runs[1]), rtol=2e-3, atol=2e-3)


def test_a_cut_run_goes_on_where_it_was(verses, tmp_path):
    whole = train(request(verses, tmp_path / "whole", {"dropout": 0.1}), []).run
    with pytest.raises(InterruptedRunError):
        train(request(verses, tmp_path / "cut", {"dropout": 0.1}), [Stopped(14)])
    resume(ResumeRequest(tmp_path / "cut"), [])
    assert_close(losses(tmp_path / "cut"), losses(whole), rtol=1e-3, atol=1e-3)


def test_after_a_spike_the_run_goes_back(verses, tmp_path):
    keys = {"on_spike": "rollback", "steps": 40}
    assert train(request(verses, tmp_path / "run", **keys), []).end.step == 40


def test_a_model_answers_alike_on_both(verses, tmp_path):
    run = RunDirectory(train(request(verses, tmp_path / "run", dtype="bfloat16"), []).run)
    model = load_model(run.usable_checkpoint("last")).model.eval()
    ids = torch.arange(16)[None]
    with torch.no_grad():
        there = model(ids)
        assert_close(model.cuda()(ids.cuda()).cpu(), there, rtol=1e-3, atol=1e-3)


def test_the_commands_run(minitx, verses, inside):
    flags = ["--layers", 2, "--heads", 2, "--d-model", 32, "--context", 32, "--steps", 20,
             "--evaluate-every", 10, "--device", "cuda"]  # fmt: skip
    done = minitx("train", verses, *flags)
    assert done.code == 0, done.err
    for command in (
        ("resume", "--steps", 30),
        ("generate", "--prompt", "10 green", "--top-k", 5, "--max-new-tokens", 40),
        ("generate", "--prompt", "10 green", "--num-samples", 3, "--max-new-tokens", 20),
        ("eval", "--holdout"),
        ("attn", "--prompt", "10 green bottles"),
        ("profile", "--steps", 3),
    ):
        done = minitx(*command)
        assert done.code == 0, (command, done.err)
        assert done.out


def test_a_time_budget_is_kept(minitx, verses, inside):
    done = minitx("train", verses, "--budget", "4s", "--max-steps", 0, "--device", "cuda")
    assert done.code == 0, done.err
    assert "steps-settled" in done.out
    lines = inside.joinpath("runs/verses-001/metrics.jsonl").read_text().splitlines()
    assert 2.5 < json.loads(lines[-1])["timing"]["elapsed_seconds"] < 6
