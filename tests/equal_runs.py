"""Runs that are stopped on the way, and the comparison of two, to the bit."""

import json
import os
import signal

from safetensors.torch import load_file

from minitx.checkpoint.rundir import RunDirectory
from minitx.training.observer import TrainingObserver


class Cut(TrainingObserver):
    """Sends a signal to this process after given steps, or in a phase."""

    def __init__(self, *steps, number=signal.SIGINT, phase=None):
        self.steps, self.number, self.phase = set(steps), number, phase

    def on_phase(self, phase):
        if phase.name == self.phase:
            os.kill(os.getpid(), self.number)

    def on_step(self, report):
        if report.step in self.steps:
            self.steps.remove(report.step)
            os.kill(os.getpid(), self.number)


def numbers(run):
    """Everything that a run's metrics say, but for what the clock decides."""
    return strip_timing(run.joinpath("metrics.jsonl").read_bytes())


def strip_timing(content):
    lines = [json.loads(line) for line in content.splitlines()]
    return [{k: v for k, v in line.items() if k != "timing"} for line in lines]


def weights(run):
    directory = RunDirectory(run).checkpoint(RunDirectory(run).steps()[-1])
    tensors = load_file(directory / "model.safetensors")
    return tensors | load_file(directory / "optimizer.safetensors")


def assert_equal_runs(one, other):
    assert numbers(one) == numbers(other)
    a, b = weights(one), weights(other)
    assert a.keys() == b.keys()
    for name, tensor in a.items():
        assert tensor.equal(b[name]), name
