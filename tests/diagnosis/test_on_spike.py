"""What follows a loss spike under each policy, and that it can be resumed to the bit."""

import json
import os
import signal

import pytest
from diagnosis import recipes
from safetensors.torch import load_file

from minitx.checkpoint.rundir import RunDirectory
from minitx.errors import InstabilityError, InterruptedRunError
from minitx.training.batches import PrefetchedBatches
from minitx.training.observer import TrainingObserver
from minitx.workflows.resume import ResumeRequest, resume

# Good states are of steps 0 and 30, then 60; batch 43 is that of step 44.
ROLLING = {"on_spike": "rollback", "evaluate_every": 10, "checkpoint_every": 5, "log_every": 1}


class Cut(TrainingObserver):
    def __init__(self, step):
        self.step = step

    def on_step(self, report):
        if report.step == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


def without_timing(run):
    return [{k: v for k, v in line.items() if k != "timing"} for line in recipes.lines(run)]


def tensors(run, step):
    directory = RunDirectory(run).checkpoint(step)
    model = load_file(directory / "model.safetensors")
    return model | load_file(directory / "optimizer.safetensors")


def equal(one, other):
    return one.keys() == other.keys() and all(one[name].equal(other[name]) for name in one)


def test_warn_tells_and_goes_on(tmp_path, poisoned):
    poisoned(43)
    run, error = recipes.run_recipe(tmp_path, on_spike="warn")
    assert error is None
    assert recipes.lines(run, "end")[0]["reason"] == "finished"
    assert "loss-spike" in recipes.events(run)
    assert "rollback" not in recipes.events(run)


def test_stop_takes_no_step_from_the_bad_batch(tmp_path, poisoned):
    poisoned(43)
    run, error = recipes.run_recipe(tmp_path, on_spike="stop", checkpoint_every=43, log_every=1)
    assert isinstance(error, InstabilityError)
    assert error.exit_code == 4
    assert "loss-spike: loss" in str(error)
    assert "the checkpoint of step 43 is whole" in str(error)
    assert RunDirectory(run).steps()[-1] == 43
    assert recipes.lines(run, "step")[-1]["step"] == 43


def test_rollback_goes_back_skips_and_lowers_the_rate(tmp_path, poisoned, monkeypatch):
    (tmp_path / "calm").mkdir()
    keys = {**ROLLING, "keep_checkpoints": 99, "checkpoint_every": 1}
    calm, _ = recipes.run_recipe(tmp_path / "calm", **keys)
    poisoned(43)
    asked = []
    get = PrefetchedBatches.__getitem__

    def noted(self, number):
        asked.append(number)
        return get(self, number)

    monkeypatch.setattr(PrefetchedBatches, "__getitem__", noted)
    run, error = recipes.run_recipe(tmp_path, **keys)
    assert error is None

    told = recipes.events(run)["rollback"]
    assert told["step"] == 44
    assert "weights and optimizer are back at step 30" in told["message"]
    assert "the batches of steps 31 to 44 are skipped" in told["message"]
    assert "the learning rate is 0.5 times the planned one" in told["message"]
    assert "rollback 1 of at most 5" in told["fix"]

    assert equal(tensors(run, 44), tensors(run, 30)), "not the last good state"
    assert not equal(tensors(run, 45), tensors(run, 30)), "nothing was learned afterwards"
    assert asked == list(range(60)), "a batch came twice, or not at all"
    rates = [
        {line["step"]: line["learning_rate"] for line in recipes.lines(one, "step")}
        for one in (calm, run)
    ]
    assert rates[1].keys() == rates[0].keys() - {44}
    for step, rate in rates[1].items():
        assert rate == pytest.approx(rates[0][step] * (0.5 if step > 44 else 1.0))


def test_state_too_close_to_the_trouble_is_passed_over(tmp_path, poisoned):
    """The weights just before a bad loss may be what caused it."""
    poisoned(62)
    run, _ = recipes.run_recipe(tmp_path, **{**ROLLING, "steps": 70})
    assert (RunDirectory(run).checkpoint(60) / "good_states.safetensors").exists()
    assert "are back at step 30" in recipes.events(run)["rollback"]["message"]


# Before anything, between the good state and the spike, just before and after it, and later.
@pytest.mark.parametrize("cut", [12, 33, 43, 45, 52])
def test_a_run_with_a_rollback_is_resumed_to_the_bit(tmp_path, poisoned, cut):
    poisoned(43)
    for name in ("uncut", "cut"):
        (tmp_path / name).mkdir()
    uncut, error = recipes.run_recipe(tmp_path / "uncut", **ROLLING)
    assert error is None
    run, error = recipes.run_recipe(tmp_path / "cut", observers=[Cut(cut)], **ROLLING)
    assert isinstance(error, InterruptedRunError)
    resume(ResumeRequest(run), [])
    assert "rollback" in recipes.events(run)
    assert without_timing(run) == without_timing(uncut)
    assert equal(tensors(run, 60), tensors(uncut, 60))
    states = [
        json.loads((RunDirectory(one).checkpoint(60) / "diagnosis.json").read_text())
        for one in (run, uncut)
    ]
    assert states[0] == states[1]


def test_too_many_rollbacks_stop_the_run(tmp_path, poisoned):
    poisoned(43, 90)
    run, error = recipes.run_recipe(tmp_path, **{**ROLLING, "max_rollbacks": 1, "steps": 100})
    assert isinstance(error, InstabilityError)
    assert "training stopped after 1 rollback, and the checkpoint of step 90 is whole" in str(error)
    rollbacks = [e["step"] for e in recipes.lines(run, "event") if e["name"] == "rollback"]
    assert rollbacks == [44]


def test_rollback_from_what_is_no_number(tmp_path):
    """Weights that overflowed are whole again, and the run ends."""
    keys = {**recipes.OVERFLOWING, "on_spike": "rollback", "max_rollbacks": 20, "steps": 60}
    run, error = recipes.run_recipe(tmp_path, **keys)
    assert error is None
    assert "not-a-number" in recipes.events(run)
    assert "rollback" in recipes.events(run)
    last = tensors(run, 60)
    assert all(bool(tensor.isfinite().all()) for tensor in last.values())
