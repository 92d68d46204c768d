"""The compiled parts compute what the plain ones do. torch's compiler itself is left out: what it
is given runs as it is, but for one test that compiles."""

import dataclasses
import sys

import pytest
import torch
from torch.testing import assert_close

from minitx.config import ModelConfig
from minitx.engine import COMPILE_FROM_SECONDS, plan_engine
from minitx.fast import loss_function, torch_compile
from minitx.fast.torch_compile import CompiledLoss, loss_and_gradient
from minitx.model import Transformer
from minitx.model.transformer import IGNORED

SHAPE = ModelConfig(
    vocab_size=50, context_length=32, n_layers=2, n_heads=4, n_kv_heads=2, d_model=32, d_ff=64,
    head_dim=8,
)  # fmt: skip


def model_of(shape=SHAPE, dtype=torch.float32):
    torch.manual_seed(0)
    return Transformer(shape).to(dtype).train()


def batch():
    ids = torch.randint(50, (3, 33), generator=torch.Generator().manual_seed(1))
    inputs, targets = ids[:, :-1], ids[:, 1:].clone()
    targets[1, :7] = IGNORED
    return inputs, targets


@pytest.fixture
def uncompiled(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function: function)


def test_loss_and_gradient_against_autograd_in_double_precision():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(7, 50, dtype=torch.float64, generator=generator) * 5
    targets = torch.randint(50, (7,), generator=generator)
    shares = torch.tensor([0.25, 0.25, 0.0, 0.25, 0.0, 0.25, 0.0], dtype=torch.float64)
    targets[shares == 0] = IGNORED
    logits.requires_grad_()
    expected = torch.nn.functional.cross_entropy(logits, targets, ignore_index=IGNORED)
    expected.backward()
    losses, gradient = loss_and_gradient(logits.detach(), targets, shares)
    assert_close(losses.sum(), expected.detach(), rtol=1e-6, atol=1e-6)
    assert_close(gradient, logits.grad, rtol=1e-5, atol=1e-7)


def test_a_row_that_does_not_count_may_be_no_number():
    logits = torch.zeros(2, 5)
    logits[1] = float("nan")
    losses, _ = loss_and_gradient(logits, torch.tensor([0, IGNORED]), torch.tensor([1.0, 0.0]))
    assert losses.sum().isfinite()


@pytest.mark.parametrize("architecture", ["qwen3", "gpt2"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("slices", [1, 4, 5, 96])
def test_parts_give_the_loss_and_gradients_of_the_whole(
    uncompiled, monkeypatch, architecture, tied, slices
):
    keys = {"architecture": architecture, "tie_embeddings": tied}
    if architecture == "gpt2":
        keys["n_kv_heads"] = 4
    shape = dataclasses.replace(SHAPE, **keys)
    monkeypatch.setattr(torch_compile, "_LOGITS_AT_ONCE", 96 // slices * 50)
    plain, parts = model_of(shape), model_of(shape)
    compiled = CompiledLoss(parts)
    for loss in (plain.loss, compiled):
        (loss(*batch()) / 3).backward()
    assert_close(compiled(*batch()), plain.loss(*batch()))
    for ours, expected in zip(parts.parameters(), plain.parameters(), strict=True):
        assert_close(ours.grad, expected.grad, rtol=1e-4, atol=1e-6)


def test_whoever_does_not_train_goes_through_the_plain_model(uncompiled, monkeypatch):
    door = sys.modules["minitx.fast.training_loss"]  # the package gives the function that name
    monkeypatch.setattr(door, "can_compile", lambda device: True)
    model = model_of()
    loss = loss_function(model, engine="torch-compile")
    monkeypatch.setattr(CompiledLoss, "__call__", None)
    with torch.no_grad():
        loss(*batch())
    model.eval()
    loss(*batch())
    with pytest.raises(TypeError):
        model.train()
        loss(*batch())


def test_one_block_is_compiled_for_all():
    torch._dynamo.reset()
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    model = model_of(dataclasses.replace(SHAPE, n_layers=12))
    original = torch.compile
    try:
        torch.compile = lambda function: original(function, backend=backend)
        compiled = CompiledLoss(model)
    finally:
        torch.compile = original
    plain = model_of(dataclasses.replace(SHAPE, n_layers=12)).loss(*batch())
    for _ in range(2):
        assert_close(compiled(*batch()), plain)
    assert len(graphs) == 3
    torch._dynamo.reset()


@pytest.mark.parametrize(
    ("kind", "lacking", "can"),
    [
        ("cuda", (), True),
        ("cuda", ("triton",), False),
        ("cuda", ("cc",), False),
        ("cpu", ("triton", "cc", "c++"), True),
        ("cpu", ("c++", "g++"), False),
    ],
)
def test_compiles_where_it_can_and_earns_it_back(monkeypatch, kind, lacking, can):
    found = {"triton": "triton", "cc": "/usr/bin/cc", "c++": "/usr/bin/c++", "g++": "/usr/bin/g++"}
    found |= dict.fromkeys(lacking)
    monkeypatch.setattr(torch_compile.importlib.util, "find_spec", found.get)
    monkeypatch.setattr(torch_compile.shutil, "which", found.get)
    device = torch.device(kind)
    assert torch_compile.can_compile(device) is can
    planned = "torch-compile" if can and kind == "cuda" else "auto"
    assert plan_engine(device, COMPILE_FROM_SECONDS) == planned
    assert plan_engine(device, COMPILE_FROM_SECONDS - 1) == "auto"
