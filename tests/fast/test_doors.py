"""The door of training: what it gives equals the model's own loss, or it gives nothing.

Tolerances are relative to the largest number of what is compared: float32 sums of some hundred
terms keep 4 digits. In bfloat16 both round, at different places; the exact gradient is that of
float32, and the door's may be off by twice as much as the model's own, and a little more by chance.
"""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import GPT2, SHAPE, WindowedAttention, configs

from minitx import fast
from minitx.compute import Compute
from minitx.engine import choose_engine
from minitx.errors import BadInputError
from minitx.fast import layers, torch_compile
from minitx.fast.library import library
from minitx.model import Transformer, transformer
from minitx.model.transformer import IGNORED
from minitx.training.gradients import GradientPass

needs_kernels = pytest.mark.skipif(library() is None, reason="no compiled kernels here")
CPU = Compute(torch.device("cpu"), torch.float32)
HALF = Compute(torch.device("cpu"), torch.bfloat16)


def trained(config, seed=0):
    torch.manual_seed(seed)
    model = Transformer(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.train()


def batch_of(config, rows=3, seed=0, length=None):
    generator = torch.Generator().manual_seed(seed)
    shape = (2, rows, length or config.context_length)
    ids, targets = torch.randint(config.vocab_size, shape, generator=generator).unbind(0)
    targets = targets.clone()
    # The first always counts.
    targets.view(-1)[1:][torch.rand(targets.numel() - 1, generator=generator) < 0.3] = IGNORED
    return ids, targets


def loss_and_gradients(model, loss_of, ids, targets, compute=CPU, scale=1.0):
    model.zero_grad()
    with compute.autocast():
        loss = loss_of(ids, targets)
    (loss * scale).backward()
    gradients = {
        name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()
    }
    return loss.detach(), gradients


def assert_equal(found, expected, relative=2e-4):
    torch.testing.assert_close(found[0], expected[0], rtol=1e-5, atol=1e-5)
    assert found[1].keys() == expected[1].keys()
    largest = max(float(gradient.abs().max()) for gradient in expected[1].values())
    for name, right in expected[1].items():
        bound = relative * (float(right.abs().max()) + 0.01 * largest) + 3e-6
        assert float((found[1][name] - right).abs().max()) <= bound, name


def by_layers(monkeypatch):
    """As where neither whole blocks nor the head take a model."""
    for name in ("takes_whole_blocks", "takes_head"):
        monkeypatch.setattr(f"minitx.fast.support.{name}", lambda *_: False)


@needs_kernels
@settings(max_examples=40, deadline=None)
@given(
    configs(dropout=st.just(0.0)), st.integers(1, 6), st.integers(0, 1000),
    st.sampled_from([1, 2]), st.booleans(),
)  # fmt: skip
def test_loss_and_every_gradient_in_float32(config, rows, seed, threads, layer_by_layer):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        model = trained(config, seed)
        loss = fast.loss_function(model)
        assert loss is not None
        ids, targets = batch_of(config, rows, seed)
        with pytest.MonkeyPatch.context() as patch:
            if layer_by_layer:
                by_layers(patch)
            found = loss_and_gradients(model, loss, ids, targets)
        assert_equal(found, loss_and_gradients(model, model.loss, ids, targets))
    finally:
        torch.set_num_threads(before)


@needs_kernels
@settings(max_examples=30, deadline=None)
@given(configs(dropout=st.just(0.0)), st.integers(1, 6), st.integers(0, 1000))
def test_loss_and_every_gradient_in_bfloat16(config, rows, seed):
    model = trained(config, seed)
    ids, targets = batch_of(config, rows, seed)
    exact = loss_and_gradients(model, model.loss, ids, targets)
    plain = loss_and_gradients(model, model.loss, ids, targets, HALF)
    door = fast.loss_function(model, HALF)
    assert door is not None
    found = loss_and_gradients(model, door, ids, targets)
    allowed = 2 * abs(float(plain[0] - exact[0])) + 1e-2
    assert abs(float(found[0] - exact[0])) <= allowed
    whole = torch.cat([gradient.flatten() for gradient in exact[1].values()]).norm()
    for name, right in exact[1].items():
        off, allowed = ((one[name] - right).norm() for one in (found[1], plain[1]))
        assert off <= 2 * allowed + 0.05 * right.norm() + 0.02 * whole, name


@needs_kernels
@pytest.mark.parametrize("config", [SHAPE, GPT2], ids=["qwen3", "gpt2"])
def test_dropout_keeps_the_mean(config):
    """Its masks are its own, so over many draws the losses are compared, and the gradients."""
    config = dataclasses.replace(config, dropout=0.2)
    model = trained(config)
    ids, targets = batch_of(config)
    door = fast.loss_function(model)

    def drawn(loss_of):
        results = []
        for seed in range(300):
            torch.manual_seed(seed)
            loss, gradients = loss_and_gradients(model, loss_of, ids, targets)
            results.append(torch.stack([loss, gradients["norm.gain"].norm()]))
        return torch.stack(results)

    found, plain = drawn(door), drawn(model.loss)
    assert found.std(0).min() > 0
    error = ((found.var(0) + plain.var(0)) / len(found)).sqrt()
    assert ((found.mean(0) - plain.mean(0)).abs() < 4.5 * error).all()
    torch.manual_seed(7)
    first = door(ids, targets)
    torch.manual_seed(7)
    assert torch.equal(door(ids, targets), first)


@needs_kernels
def test_tokens_longer_than_the_context_and_wrong_targets_are_refused():
    model = trained(SHAPE)
    door = fast.loss_function(model)
    with pytest.raises(BadInputError, match="13 tokens are longer than the context of 12"):
        door(torch.zeros(1, 13, dtype=torch.int64), torch.zeros(1, 13, dtype=torch.int64))
    ids = torch.zeros(1, 5, dtype=torch.int64)
    with pytest.raises(IndexError):
        door(ids, ids + 29)
    assert door(ids, torch.full_like(ids, IGNORED)).isnan()


@needs_kernels
def test_frozen_parameters_get_no_gradients():
    model = trained(SHAPE)
    model.embedding.requires_grad_(False)
    model.blocks[0].mlp.requires_grad_(False)
    ids, targets = batch_of(SHAPE)
    model = model.eval()  # without dropout
    expected = loss_and_gradients(model, model.loss, ids, targets)
    still = Transformer(dataclasses.replace(SHAPE, dropout=0.0)).train()
    still.load_state_dict(model.state_dict())
    still.embedding.requires_grad_(False)
    still.blocks[0].mlp.requires_grad_(False)
    found = loss_and_gradients(still, fast.loss_function(still), ids, targets)
    for name, right in expected[1].items():
        assert (found[1][name] is None) == (right is None)
        if right is not None:
            torch.testing.assert_close(found[1][name], right, atol=1e-5, rtol=1e-3)


@needs_kernels
@pytest.mark.parametrize("case", ["evaluation", "no gradients"])
def test_whoever_does_not_train_gets_the_models_own_loss(monkeypatch, case):
    model = trained(dataclasses.replace(SHAPE, dropout=0.0))
    door = fast.loss_function(model)
    ids, targets = batch_of(SHAPE)
    monkeypatch.setattr(layers, "run", None)
    monkeypatch.setattr(layers, "embed", None)
    with pytest.raises(TypeError):
        door(ids, targets)
    model.train(case != "evaluation")
    with torch.set_grad_enabled(case != "no gradients"):
        assert torch.equal(door(ids, targets), model.loss(ids, targets))


@needs_kernels
def test_native_attention_only_where_it_knows_the_case(monkeypatch):
    calls = []
    sound = layers.attend
    monkeypatch.setattr(layers, "attend", lambda *given: calls.append(1) or sound(*given))
    config = dataclasses.replace(GPT2, dropout=0.0)
    ids, targets = batch_of(config)
    door = fast.loss_function(trained(config))
    door(ids, targets)
    assert len(calls) == config.n_layers
    fast.loss_function(trained(GPT2))(ids, targets)  # with dropout
    monkeypatch.setattr("minitx.fast.support.LONGEST_ATTENTION", 11)
    door(ids, targets)
    assert len(calls) == config.n_layers


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("limit", [0, 4096])
def test_attention_without_its_kernel_computes_the_same(monkeypatch, dtype, limit):
    """Long texts, and dropout, with the weights stored and without: here with nothing dropped."""
    by_layers(monkeypatch)
    monkeypatch.setattr("minitx.fast.support.LONGEST_ATTENTION", 0)
    monkeypatch.setattr(layers, "EAGER_UP_TO", dict.fromkeys(layers.EAGER_UP_TO, limit))
    for shape in (SHAPE, GPT2):
        config = dataclasses.replace(shape, dropout=0.0)
        model = trained(config)
        ids, targets = batch_of(config)
        compute = Compute(torch.device("cpu"), dtype)
        found = loss_and_gradients(model, fast.loss_function(model, compute), ids, targets)
        expected = loss_and_gradients(model, model.loss, ids, targets, compute)
        if dtype == torch.float32:
            assert_equal(found, expected)
        else:
            torch.testing.assert_close(found[0], expected[0], rtol=1e-2, atol=1e-2)
            for name, right in expected[1].items():
                assert (found[1][name] - right).norm() <= 0.1 * right.norm() + 1e-3, name


# torch.compile


@pytest.mark.skipif(not torch_compile.can_compile(CPU.device), reason="no C++ compiler here")
@pytest.mark.parametrize(
    ("config", "compute"),
    [
        (dataclasses.replace(SHAPE, dropout=0.0), CPU),
        (dataclasses.replace(GPT2, dropout=0.0, tie_embeddings=False), CPU),
        (dataclasses.replace(SHAPE, dropout=0.0), HALF),
    ],
    ids=["qwen3", "gpt2, untied", "qwen3 in bfloat16"],
)
def test_compiled_loss_and_every_gradient(config, compute):
    model = trained(config)
    ids, targets = batch_of(config)
    door = fast.loss_function(model, compute, "torch-compile")
    assert choose_engine(model, compute, "torch-compile").engine == "torch-compile"
    found = loss_and_gradients(model, door, ids, targets, scale=0.5)
    expected = loss_and_gradients(model, model.loss, ids, targets, compute, scale=0.5)
    if compute is CPU:
        assert_equal(found, expected)
    else:
        torch.testing.assert_close(found[0], expected[0], rtol=1e-2, atol=1e-2)
        for name, right in expected[1].items():
            assert (found[1][name] - right).norm() <= 0.1 * right.norm() + 1e-3, name


# Changed models


PLAIN = dataclasses.replace(SHAPE, dropout=0.0)


def windowed(model):
    layer = WindowedAttention(PLAIN, 1)
    layer.load_state_dict(model.blocks[1].attention.state_dict())
    model.blocks[1].attention = layer


def hooked(model):
    model.blocks[0].mlp.register_forward_hook(lambda module, given, out: 3 * out)


def method_replaced(model):
    norm = model.norm
    norm.forward = lambda x: 2 * type(norm).forward(norm, x)


CHANGES = [windowed, hooked, method_replaced, "mask"]


def changed(model, change, monkeypatch):
    if change == "mask":
        sound = transformer.causal_mask
        monkeypatch.setattr(
            transformer,
            "causal_mask",
            lambda n, m, device=None: sound(n, m, device).triu(m - n - 3),
        )
    else:
        change(model)


@pytest.mark.parametrize("engine", ["auto", "native", "torch-compile"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_model_gets_no_door_and_its_own_gradients(monkeypatch, change, engine):
    if engine == "torch-compile" and not torch_compile.can_compile(CPU.device):
        pytest.skip("no C++ compiler here")
    model, ids_and_targets = trained(PLAIN), batch_of(PLAIN)
    before = loss_and_gradients(model, model.loss, *ids_and_targets)
    changed(model, change, monkeypatch)
    assert fast.loss_function(model, CPU, engine) is None
    assert choose_engine(model, CPU, engine).engine == "plain"
    expected = loss_and_gradients(model, model.loss, *ids_and_targets)
    assert abs(float(expected[0] - before[0])) > 1e-5
    model.zero_grad()
    loss = GradientPass(model, CPU, engine=engine)(*ids_and_targets)
    assert torch.equal(loss, expected[0])
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter.grad, expected[1][name]), name


@needs_kernels
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_after_the_door_was_opened_is_computed_from_the_next_call_on(monkeypatch, change):
    model, ids_and_targets = trained(PLAIN), batch_of(PLAIN)
    door = fast.loss_function(model)
    before = loss_and_gradients(model, door, *ids_and_targets)
    changed(model, change, monkeypatch)
    found = loss_and_gradients(model, door, *ids_and_targets)
    expected = loss_and_gradients(model, model.loss, *ids_and_targets)
    assert torch.equal(found[0], expected[0])
    assert abs(float(found[0] - before[0])) > 1e-5
    for name, gradient in expected[1].items():
        assert torch.equal(found[1][name], gradient), name


@needs_kernels
def test_a_hook_is_called_for_as_long_as_it_is_there():
    model, (ids, targets) = trained(PLAIN), batch_of(PLAIN)
    door, seen = fast.loss_function(model), []
    handle = model.blocks[1].register_forward_hook(lambda *_: seen.append(1))
    door(ids, targets)
    handle.remove()
    door(ids, targets)
    assert seen == [1]


def test_plain_is_plain():
    model = trained(PLAIN)
    assert fast.loss_function(model, CPU, "plain") is None
    assert choose_engine(model, CPU, "plain").engine == "plain"


def test_a_model_in_double_precision_is_left_to_itself():
    model = trained(PLAIN).double()
    assert fast.loss_function(model) is None
