"""A large batch in pieces: the same loss and gradients as of the whole, against float64."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minitx import fast
from minitx.config import ModelConfig
from minitx.fast import pieces
from minitx.fast.library import library
from minitx.model import Transformer
from minitx.model.transformer import IGNORED

pytestmark = pytest.mark.skipif(library() is None, reason="no compiled kernels")


def model_of(**changes):
    torch.manual_seed(1)
    shape = {
        "vocab_size": 13, "context_length": 16, "n_layers": 2, "n_heads": 2, "n_kv_heads": 1,
        "d_model": 12, "d_ff": 20, "head_dim": 6,
    }  # fmt: skip
    return Transformer(ModelConfig(**{**shape, **changes})).train()


def batch_of(model, batch, seq):
    return torch.randint(model.config.vocab_size, (2, batch, seq)).unbind(0)


def gradients_of(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def calls_of(monkeypatch):
    calls = []
    apply = pieces._InPieces.apply
    monkeypatch.setattr(pieces._InPieces, "apply", lambda *a: calls.append(1) or apply(*a))
    return calls


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_loss_and_gradients_are_those_of_the_whole_batch(data):
    architecture = data.draw(st.sampled_from(["qwen3", "gpt2"]))
    model = model_of(architecture=architecture, n_kv_heads=2)
    seq, batch = data.draw(st.integers(1, 16)), data.draw(st.integers(1, 9))
    ids, targets = batch_of(model, batch, seq)
    targets = targets.clone()
    # Whole sequences count for nothing, and parts of others.
    targets[: data.draw(st.integers(0, batch - 1))] = IGNORED
    targets[-1, : data.draw(st.integers(0, seq - 1))] = IGNORED
    twin = copy.deepcopy(model).double()
    right_loss = twin.loss(ids, targets)
    right = gradients_of(twin, right_loss)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pieces, "PIECE", data.draw(st.integers(1, 40)))
        loss = fast.loss_function(model)(ids, targets)
        found = gradients_of(model, loss / 4)
    assert loss.item() == pytest.approx(right_loss.item(), rel=1e-5)
    assert found.keys() == right.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(4 * gradient.double(), right[name], rtol=1e-4, atol=1e-6)


def test_pieces_are_taken_where_a_batch_is_large_and_products_are_float32(monkeypatch):
    model = model_of()
    calls = calls_of(monkeypatch)
    monkeypatch.setattr(pieces, "PIECE", 32)
    loss = fast.loss_function(model)
    loss(*batch_of(model, 2, 16))
    with torch.autocast("cpu", torch.bfloat16):
        loss(*batch_of(model, 3, 16))
    assert not calls
    loss(*batch_of(model, 3, 16))
    assert calls


def test_gradients_are_handed_over_once(monkeypatch):
    monkeypatch.setattr(pieces, "PIECE", 16)
    model = model_of()
    loss = fast.loss_function(model)(*batch_of(model, 3, 16))
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="taken already"):
        loss.backward()


def test_a_frozen_weight_gets_no_gradient(monkeypatch):
    monkeypatch.setattr(pieces, "PIECE", 16)
    model = model_of()
    model.blocks[0].mlp.down.weight.requires_grad_(False)
    found = gradients_of(model, fast.loss_function(model)(*batch_of(model, 3, 16)))
    assert "blocks.0.mlp.down.weight" not in found
    assert "blocks.1.mlp.down.weight" in found


def test_where_no_target_counts_the_loss_is_nan_as_that_of_the_model(monkeypatch):
    monkeypatch.setattr(pieces, "PIECE", 16)
    model = model_of()
    ids, targets = batch_of(model, 3, 16)
    assert fast.loss_function(model)(ids, torch.full_like(targets, IGNORED)).isnan()
