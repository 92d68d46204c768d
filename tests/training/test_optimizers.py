"""An optimizer from outside the package: one class that registers itself, and nothing else."""

import os
import signal
from dataclasses import dataclass

import pytest
import torch
from safetensors.torch import load_file
from small_runs import TINY_MODEL, TINY_TRAIN

from minitx.checkpoint.rundir import RunDirectory
from minitx.config import ModelConfig, TrainConfig
from minitx.config.options import Config, option
from minitx.config.toml import build
from minitx.errors import BadInputError, InterruptedRunError
from minitx.model import Transformer
from minitx.training.observer import TrainingObserver
from minitx.training.optimizers import OPTIMIZERS, make_optimizer
from minitx.training.optimizers.optimizer_base import Optimizer
from minitx.workflows.resume import ResumeRequest, resume
from minitx.workflows.train import TrainRequest, train


class Lion(Optimizer):
    """The sign of a running gradient (Chen et al. 2023)."""

    planned_rate = 0.0007
    state_bytes = 4

    @dataclass(frozen=True)
    class Options(Config):
        beta: float = option(0.9, "How much of the update is from earlier steps.", within=(0, 1))
        decay: float = option(0.99, "Of the running gradient.", within=(0, 1))

    def __init__(self, model, config, product_dtype=None):
        super().__init__(model, config, product_dtype)
        self.momenta = {n: torch.zeros_like(p) for n, p in model.named_parameters()}

    def update_parameters(self, rate_factor):
        rate = rate_factor * self.config.learning_rate
        for parameter, momentum in zip(self.parameters, self.momenta.values(), strict=True):
            update = torch.lerp(parameter.grad, momentum, self.options.beta).sign()
            parameter.mul_(1 - rate * self.config.weight_decay).sub_(update, alpha=rate)
            momentum.lerp_(parameter.grad, 1 - self.options.decay)

    def state_tensors(self):
        return {f"lion.{name}": momentum for name, momentum in self.momenta.items()}


@pytest.fixture
def lion():
    OPTIMIZERS.register("lion")(Lion)
    yield "lion"
    del OPTIMIZERS._kinds["lion"]


class Cut(TrainingObserver):
    def on_step(self, report):
        if report.step == 14:
            os.kill(os.getpid(), signal.SIGINT)


def request(verses, out, **train_keys):
    return TrainRequest(
        data={"corpus": (str(verses),)}, model=TINY_MODEL,
        train={**TINY_TRAIN, "log_every": 1, **train_keys}, out=out,
    )  # fmt: skip


def tensors(run):
    last = RunDirectory(run).usable_checkpoint("last")
    return load_file(last / "model.safetensors") | load_file(last / "optimizer.safetensors")


def test_an_optimizer_from_outside_trains_and_resumes_exactly(tmp_path, verses, lion):
    keys = {"optimizer": lion, "optimizer_options": {"beta": 0.95}}
    uncut = train(request(verses, tmp_path / "uncut", **keys), []).run
    with pytest.raises(InterruptedRunError):
        train(request(verses, tmp_path / "cut", **keys), [Cut()])
    resume(ResumeRequest(tmp_path / "cut"), [])
    config = RunDirectory(uncut).read_config().train
    assert config.learning_rate == Lion.planned_rate
    assert config.optimizer_options == {"beta": 0.95}
    ours, others = tensors(tmp_path / "cut"), tensors(uncut)
    assert any(name.startswith("lion.") for name in ours)
    assert ours.keys() == others.keys()
    assert all(torch.equal(tensor, others[name]) for name, tensor in ours.items())


def test_its_options_are_checked_as_those_of_the_config(lion):
    model = Transformer(build(ModelConfig, {**TINY_MODEL, "vocab_size": 9, "head_dim": 8}, "model"))
    keys = {"steps": 1, "batch_size": 1, "learning_rate": 0.1}
    options = make_optimizer(model, TrainConfig(**keys, optimizer=lion)).options
    assert options == Lion.Options()
    for name, wrong, words in (
        (lion, {"bata": 0.9}, "optimizer_options has an unknown key 'bata'"),
        (lion, {"beta": "much"}, "optimizer_options: beta is 'much', not a number"),
        (lion, {"beta": 2}, "beta is 2.0, outside 0 to 1"),
        ("muon", {"beta": 0.9}, "optimizer_options has an unknown key 'beta'"),
    ):
        config = TrainConfig(**keys, optimizer=name, optimizer_options=wrong)
        with pytest.raises(BadInputError, match=words):
            make_optimizer(model, config)
    with pytest.raises(BadInputError, match="optimizer is 'sgd'"):
        make_optimizer(model, TrainConfig(**keys, optimizer="sgd"))


def test_a_run_with_an_unknown_optimizer_leaves_nothing_behind(tmp_path, verses):
    with pytest.raises(BadInputError, match="optimizer is 'lion'"):
        train(request(verses, tmp_path / "run", optimizer="lion"), [])
    assert not (tmp_path / "run").exists()
