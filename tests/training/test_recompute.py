"""Blocks that are computed again on the way back: the same numbers to the bit, in less memory."""

from __future__ import annotations

import json
from dataclasses import replace

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_runs import TINY_MODEL, TINY_TRAIN

from minitx.checkpoint.rundir import RunDirectory
from minitx.compute import Compute
from minitx.engine import loss_function
from minitx.model import Transformer
from minitx.training.cost import Workload, memory, reason_to_recompute
from minitx.workflows import train as train_module
from minitx.workflows.resume import ResumeRequest, resume
from minitx.workflows.train import TrainRequest, train
from tests.processes.several import losses
from tests.small_models import SHAPE, WindowedAttention, configs

DEVICE = torch.device("cpu")
FLOAT32 = Compute(DEVICE, torch.float32)


def computed(config, compute, recompute, change=lambda model: None):
    torch.manual_seed(1)
    model = Transformer(config)
    change(model)
    torch.manual_seed(2)
    ids = torch.randint(config.vocab_size, (3, config.context_length))
    engine = "plain"
    loss = loss_function(model, compute, engine, recompute)(ids, ids.roll(-1, 1))
    loss.backward()
    return [loss.detach(), *(p.grad for p in model.parameters())]


@settings(max_examples=40, deadline=None)
@given(config=configs(), dtype=st.sampled_from([torch.float32, torch.bfloat16]))
def test_loss_and_gradients_are_the_same_to_the_bit(config, dtype):
    compute = Compute(DEVICE, dtype)
    expected, found = (computed(config, compute, recompute) for recompute in (False, True))
    for tensor, other in zip(found, expected, strict=True):
        assert tensor.equal(other)


def test_a_model_that_was_changed_is_computed_as_it_is():
    def windowed(model):
        for number, block in enumerate(model.blocks):
            block.attention = WindowedAttention(SHAPE, number)

    plain = computed(SHAPE, FLOAT32, True)
    expected, found = (computed(SHAPE, FLOAT32, again, windowed) for again in (False, True))
    assert all(tensor.equal(other) for tensor, other in zip(found, expected, strict=True))
    assert not found[0].equal(plain[0])


def test_blocks_are_as_they_were_afterwards():
    torch.manual_seed(1)
    model = Transformer(SHAPE)
    own = model.blocks[0].forward
    model.blocks[0].forward = lambda *arguments: own(*arguments)
    patched = model.blocks[0].forward
    ids = torch.zeros(1, 4, dtype=torch.long)
    loss_function(model, FLOAT32, "plain", True)(ids, ids).backward()
    assert model.blocks[0].forward is patched
    assert "forward" not in vars(model.blocks[1])


def test_the_plan_asks_for_it_where_fewer_sequences_are_not_enough():
    config = replace(SHAPE, context_length=1024, d_model=512, n_layers=24, vocab_size=1000)
    for rows in (1, 4, 256):
        work = Workload(rows, native=False)
        least = memory(config, replace(work, batch_size=min(rows, 4))).peak
        assert reason_to_recompute(config, work, least) == ""
        assert "are free" in reason_to_recompute(config, work, least - 1)


def request(verses, out, **given):
    keys = {**TINY_TRAIN, "log_every": 1, **given}
    model = {**TINY_MODEL, "dropout": 0.1}
    return TrainRequest(data={"corpus": (str(verses),)}, model=model, train=keys, out=out)


def test_a_run_has_the_losses_of_one_without(verses, tmp_path):
    plain, again = tmp_path / "plain", tmp_path / "again"
    train(request(verses, plain, engine="plain"), [])
    train(request(verses, again, recompute=True), [])
    assert losses(again) == losses(plain)
    config = RunDirectory(again).read_config().train
    assert config.recompute
    assert config.engine == "plain"
    made_with = RunDirectory(again).checkpoint(30) / "made_with.json"
    assert "--recompute" in json.loads(made_with.read_text())["kernels"]
    # A resumed run goes on so, unless it is told to stop.
    resume(ResumeRequest(plain, {"steps": 40}), [])
    resume(ResumeRequest(again, {"steps": 40}), [])
    assert losses(again) == losses(plain)
    resume(ResumeRequest(again, {"steps": 45, "recompute": False}), [])
    config = RunDirectory(again).read_config().train
    assert not config.recompute


def test_the_plan_says_why(verses, tmp_path, monkeypatch):
    starts = []

    class Start(train_module.TrainingObserver):
        def on_start(self, start):
            starts.append(start)

    monkeypatch.setattr(train_module, "_free_memory", lambda device: 10**5)
    monkeypatch.setattr(train_module, "require_memory", lambda *arguments: None)
    train(request(verses, tmp_path / "run", engine="plain", steps=2), [Start()])
    assert starts[0].config.train.recompute
    assert "are free" in starts[0].reasons["recompute"]
    given = request(verses, tmp_path / "given", engine="plain", steps=2, recompute=False)
    train(given, [Start()])
    assert not starts[1].config.train.recompute
