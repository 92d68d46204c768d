"""The compiled parts compute what the plain ones do. torch's compiler itself is left out: what it
is given runs as it is, but for one test that compiles."""

import dataclasses

import pytest
import torch
from minitx.model.compiled import loss_and_gradient
from torch.testing import assert_close

from minitx.config import ModelConfig
from minitx.model import Trace, Transformer
from minitx.model import compiled as compiled_module
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
    monkeypatch.setattr(compiled_module, "_LOGITS_AT_ONCE", 96 // slices * 50)
    plain, parts = model_of(shape), model_of(shape)
    parts.compile_parts()
    for model in (plain, parts):
        (model.loss(*batch()) / 3).backward()
    assert_close(parts.loss(*batch()), plain.loss(*batch()))
    for ours, expected in zip(parts.parameters(), plain.parameters(), strict=True):
        assert_close(ours.grad, expected.grad, rtol=1e-4, atol=1e-6)


def test_what_looks_inside_goes_through_the_plain_blocks(uncompiled, monkeypatch):
    model = model_of()
    model.compile_parts()
    monkeypatch.setattr(compiled_module.CompiledParts, "block", None)
    inputs, targets = batch()
    model(inputs, trace=Trace())
    with torch.no_grad():
        model.loss(inputs, targets)
    model.eval()
    model.loss(inputs, targets)
    with pytest.raises(TypeError):
        model.train().loss(inputs, targets)


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
        model.compile_parts()
    finally:
        torch.compile = original
    plain = model_of(dataclasses.replace(SHAPE, n_layers=12)).loss(*batch())
    for _ in range(2):
        assert_close(model.loss(*batch()), plain)
    assert len(graphs) == 3
    torch._dynamo.reset()
