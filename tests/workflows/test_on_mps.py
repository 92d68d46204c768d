"""Training, resuming and generating on an Apple GPU, as far as that can be seen without one.

The device is faked: whatever is to lie on `mps` lies on the CPU. So what minitx decides by the kind
of device is tested, and what torch computes on it is not.
"""

import json
import os
import signal

import pytest
import torch
from small_runs import TINY_MODEL, TINY_TRAIN
from torch.overrides import TorchFunctionMode

import minitx
from minitx.compute import choose_compute, choose_device, synchronize
from minitx.errors import InterruptedRunError
from minitx.training.observer import TrainingObserver
from minitx.workflows.resume import ResumeRequest, resume
from minitx.workflows.train import TrainRequest, train

MPS = torch.device("mps")


class OnCpuInstead(TorchFunctionMode):
    """Notes which functions of torch are asked for something on `mps`."""

    def __init__(self):
        super().__init__()
        self.asked = set()

    def __torch_function__(self, function, types, args=(), kwargs=None):
        keywords = kwargs or {}
        if function is torch.device:  # to name it is not to use it
            return function(*args, **keywords)
        swapped = [self.there(value) for value in args]
        if any(new is not old for new, old in zip(swapped, args, strict=True)) or any(
            self.there(v) is not v for v in keywords.values()
        ):
            self.asked.add(function.__name__)
        return function(*swapped, **{key: self.there(value) for key, value in keywords.items()})

    def there(self, value):
        is_mps = isinstance(value, (torch.device, str)) and str(value) == "mps"
        return torch.device("cpu") if is_mps else value


class Stopped(TrainingObserver):
    def on_step(self, report):
        if report.step == 7:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture
def mps(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with OnCpuInstead() as mode:
        yield mode


def request(verses, out, dtype):
    settings = {**TINY_TRAIN, "device": "mps", "dtype": dtype, "steps": 12, "log_every": 1}
    return TrainRequest(data={"corpus": (str(verses),)}, model=TINY_MODEL, train=settings, out=out)


def losses(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["kind"] == "step"]


def test_it_is_taken_where_it_is(mps):
    assert choose_device("auto") == MPS
    assert choose_compute("auto", "auto").dtype == torch.float32
    assert choose_compute("mps", "bfloat16").dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_cut_run_goes_on_there_where_it_was(mps, dtype, verses, tmp_path, monkeypatch):
    autocast, formats = torch.autocast, set()
    monkeypatch.setattr(
        torch, "autocast", lambda *given: formats.add(given) or autocast(*given)
    )  # fmt: skip
    whole = train(request(verses, tmp_path / "whole", dtype), []).run
    assert "to" in mps.asked
    with pytest.raises(InterruptedRunError):
        train(request(verses, tmp_path / "cut", dtype), [Stopped()])
    resume(ResumeRequest(tmp_path / "cut"), [])
    assert len(losses(whole)) == 12
    assert losses(tmp_path / "cut") == losses(whole)
    # Where only weights are looked at, they are where they were faked to be.
    assert (("mps", torch.bfloat16) in formats) == (dtype == "bfloat16")


def test_a_model_speaks_there_as_on_the_processor(mps, tiny_run):
    texts = []
    for device in ("mps", "cpu"):
        mps.asked.clear()
        model = minitx.load(tiny_run, device=device)
        options = {"max_new_tokens": 30, "seed": 3}
        texts.append([model.generate("10 green", **options)])
        texts[-1] += model.stream("9 green", **options)
        assert ("to" in mps.asked) == (device == "mps")
    assert texts[0] == texts[1]


def test_a_device_that_waits_is_waited_for(mps, monkeypatch):
    """A clock that is read while it still computes would measure nothing."""
    waited = []
    monkeypatch.setattr(torch.mps, "synchronize", lambda: waited.append(True))
    synchronize(MPS)
    assert waited
