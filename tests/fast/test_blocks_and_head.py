"""The blocks, the head and the loss in one call each, against the plain modules.

What is exact is computed in float64. Each test runs for products of float32 and of bfloat16. The
compiled blocks round to the format of products where the plain modules do or at fewer places, so
they may be off by as much as those are, and a little more by chance.
"""

import contextlib
import copy

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minitx import fast
from minitx.config import ModelConfig
from minitx.fast import head, support, whole_blocks
from minitx.fast.library import has_bfloat16_products, library
from minitx.inspection.ablation import head_off
from minitx.model import Trace, Transformer, transformer
from minitx.model.transformer import IGNORED

pytestmark = pytest.mark.skipif(library() is None, reason="no compiled kernels")
WORD = 2**64 - 1
even = lambda low, high: st.integers(low // 2, high // 2).map(lambda half: 2 * half)  # noqa: E731


class Products:
    """The format of products that a test runs for, and how much less it is off than bfloat16."""

    dtype, scale = torch.bfloat16, 1.0

    @classmethod
    def taken(cls):
        """The context in which a model's products are in this format."""
        return torch.autocast("cpu", torch.bfloat16, enabled=cls.dtype == torch.bfloat16)


@pytest.fixture(autouse=True, params=["float32", "bfloat16"])
def _products(request, monkeypatch):
    if request.param == "bfloat16" and not has_bfloat16_products():
        pytest.skip("no products of bfloat16 on this processor")
    monkeypatch.setattr(Products, "dtype", getattr(torch, request.param))
    monkeypatch.setattr(Products, "scale", 1e-3 if request.param == "float32" else 1.0)


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def model_of(seed=0, **changes):
    shape = {
        "vocab_size": 29, "context_length": 64, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2,
        "d_model": 32, "d_ff": 72, "head_dim": 8,
    }  # fmt: skip
    torch.manual_seed(seed)
    model = Transformer(ModelConfig(**{**shape, **changes}))
    with torch.no_grad():
        for parameter in model.parameters():
            # As after some training: no gain is 1, and no matrix is 0.
            parameter.add_(torch.randn_like(parameter) * (0.3 if parameter.dim() == 1 else 0.1))
    return model.train()


def batch_of(model, batch, seq, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape, vocab = (2, batch, seq), model.config.vocab_size
    return torch.randint(vocab, shape, generator=generator).unbind(0)


def taken(monkeypatch):
    """Counts calls of the blocks' and the head's kernel."""
    calls = {"blocks": 0, "head": 0}
    run, loss = whole_blocks.run, head.loss

    def counted_run(*given):
        calls["blocks"] += 1
        return run(*given)

    def counted_loss(*given):
        calls["head"] += 1
        return loss(*given)

    monkeypatch.setattr(whole_blocks, "run", counted_run)
    monkeypatch.setattr(head, "loss", counted_loss)
    return calls


def loss_and_gradients(model, ids, targets, kernels=True):
    with pytest.MonkeyPatch.context() as patch:
        calls = taken(patch)
        loss_of = fast.loss_function(model) if kernels else model.loss
        model.zero_grad()
        with contextlib.nullcontext() if exactly(model) else Products.taken():
            loss = loss_of(ids, targets)
        loss.backward()
        assert calls == ({"blocks": 1, "head": 1} if kernels else {"blocks": 0, "head": 0})
    return loss.item(), {name: p.grad.double() for name, p in model.named_parameters()}


def exactly(model):
    return model.embedding.weight.dtype == torch.float64


def exact(model, ids, targets):
    return loss_and_gradients(copy.deepcopy(model).double(), ids, targets, kernels=False)


def distance(found, right):
    return float((found - right).norm() / (right.norm() + 1e-12))


def too_far(found, plain, right):
    """Which gradients, or all of them together, are too far from the right ones."""

    def together(gradients):
        return torch.cat([gradient.flatten() for gradient in gradients.values()])

    # A gradient much smaller than the others is a difference of roundings of those.
    floor = 0.05 * together(right).norm()
    far = []
    for name, gradient in found.items():
        scale = right[name].norm() + floor
        mine = (gradient - right[name]).norm() / scale
        if mine > 4 * (plain[name] - right[name]).norm() / scale + 5e-2 * Products.scale:
            far.append(name)
    theirs = distance(together(plain), together(right))
    if distance(together(found), together(right)) > 3 * theirs + 3e-2 * Products.scale:
        far.append("all")
    return far


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_blocks_and_head_are_as_near_to_float64_as_autocast(data):
    group, kv_heads = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))
    # The kernels of bfloat16 take pairs.
    size = even if Products.dtype == torch.bfloat16 else st.integers
    seq = data.draw(size(2, 140))
    model = model_of(
        seed=data.draw(st.integers(0, 1000)),
        n_kv_heads=kv_heads, n_heads=group * kv_heads, head_dim=data.draw(even(2, 40)),
        d_model=data.draw(size(2, 100)), d_ff=data.draw(size(2, 150)), context_length=seq,
        vocab_size=data.draw(st.integers(2, 150)), n_layers=data.draw(st.integers(1, 2)),
    )  # fmt: skip
    torch.set_num_threads(data.draw(st.sampled_from([1, 2])))
    ids, targets = batch_of(model, data.draw(st.integers(1, 4)), seq)
    right_loss, right = exact(model, ids, targets)
    loss, found = loss_and_gradients(model, ids, targets)
    plain_loss, plain = loss_and_gradients(model, ids, targets, kernels=False)
    assert abs(loss - right_loss) <= 2 * abs(plain_loss - right_loss) + 1e-2 * Products.scale
    assert not too_far(found, plain, right)


def test_a_wrong_gradient_would_be_found():
    """By the test above: gradients that are a tenth too large, or one matrix upside down."""
    model = model_of()
    ids, targets = batch_of(model, 2, 64)
    _, right = exact(model, ids, targets)
    _, found = loss_and_gradients(model, ids, targets)
    _, plain = loss_and_gradients(model, ids, targets, kernels=False)
    assert not too_far(found, plain, right)
    assert "all" in too_far({name: 1.1 * one for name, one in found.items()}, plain, right)
    for name, one in found.items():
        if one.dim() == 2:
            assert name in too_far({**found, name: one.flip(0)}, plain, right)


@pytest.mark.parametrize("batch", [1, 12])
def test_any_number_of_threads_gives_the_same_bits(batch):
    model = model_of(context_length=130)
    ids, targets = batch_of(model, batch, 130)
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(loss_and_gradients(model, ids, targets))
    for loss, gradients in results[1:]:
        assert loss == results[0][0]
        assert all(torch.equal(results[0][1][name], one) for name, one in gradients.items())


@pytest.mark.parametrize("changed", [1, 37, 63])
def test_nothing_of_a_later_token_reaches_an_earlier_position(changed):
    model = model_of()
    stream = torch.randn(2, 64, 32)
    other = stream.clone()
    other[:, changed:] += torch.randn(2, 64 - changed, 32)

    def after(x):
        x = x.clone().requires_grad_()
        with Products.taken():
            assert support.takes_whole_blocks(model, x)
            out = whole_blocks.run(model, x)
        out[:, :changed].sum().backward()
        return out.detach(), x.grad

    (first, gradient), (second, _) = after(stream), after(other)
    assert torch.equal(first[:, :changed], second[:, :changed])
    assert not torch.equal(first[:, changed:], second[:, changed:])
    assert not gradient[:, changed:].any()
    assert gradient[:, :changed].any()


@pytest.mark.parametrize("place", ["embedding.weight", "blocks.1.mlp.down.weight", "head.weight"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_no_number_stays_none(place, bad):
    model = model_of(tie_embeddings=False)
    ids, targets = batch_of(model, 2, 64)
    with torch.no_grad():
        model.get_parameter(place)[ids[0, 5]] = bad
    loss, _ = loss_and_gradients(model, ids, targets)
    assert loss != loss


@pytest.mark.parametrize(
    "case", ["odd length", "gpt2", "head off", "hook", "hook on the way back", "evaluation",
             "wide", "float16"],
)  # fmt: skip
def test_what_the_kernel_does_not_compute_takes_the_other_way(case, monkeypatch):
    calls = taken(monkeypatch)
    batch, seq, changes = 2, 64, {}
    if case == "odd length":
        if Products.dtype == torch.float32:
            pytest.skip("taken in float32")
        seq = 63
    if case == "gpt2":
        changes = {"architecture": "gpt2", "n_kv_heads": 4}
    model = model_of(**changes)
    if case == "wide":
        monkeypatch.setattr(support, "LONGEST_ROW", 71)
    seen = []
    if case == "hook on the way back":
        model.blocks[0].mlp.register_full_backward_hook(lambda *_: None)
    if case == "hook":
        model.blocks[1].mlp.down.register_forward_pre_hook(lambda *_: seen.append(1))
    ids, targets = batch_of(model, batch, seq)
    with (
        torch.autocast("cpu", torch.float16) if case == "float16" else Products.taken(),
        torch.set_grad_enabled(case != "evaluation"),
        head_off(model, 0, 1) if case == "head off" else contextlib.nullcontext(),
    ):
        loss = fast.loss_function(model) or model.loss
        assert loss(ids, targets).isfinite()
    assert calls["blocks"] == 0
    assert len(seen) == (case == "hook")


def test_a_hook_on_the_model_or_its_head_is_called():
    model = model_of()
    ids, targets = batch_of(model, 2, 64)
    loss = fast.loss_function(model)
    for module in (model, model.head, model.norm):
        seen = []
        handle = module.register_forward_hook(lambda *_, seen=seen: seen.append(1))
        with Products.taken():
            loss(ids, targets).backward()
        handle.remove()
        assert seen == [1]


def test_targets_that_are_ignored_count_for_nothing():
    model = model_of()
    ids, targets = batch_of(model, 4, 64)
    targets = targets.clone()
    targets[:, ::3] = IGNORED
    right_loss, right = exact(model, ids, targets)
    loss, found = loss_and_gradients(model, ids, targets)
    assert loss == pytest.approx(right_loss, abs=2e-3 * Products.scale)
    assert distance(found["norm.gain"], right["norm.gain"]) < 2e-2 * Products.scale
    with Products.taken():
        assert fast.loss_function(model)(ids, torch.full_like(targets, IGNORED)).isnan()


@pytest.mark.parametrize("target", [29, -1])
def test_a_target_that_is_no_token_is_refused(target):
    model = model_of()
    ids, targets = batch_of(model, 2, 64)
    targets = targets.clone()
    targets[1, 3] = target
    with (
        Products.taken(),
        pytest.raises(IndexError, match="1 targets are not among the 29 tokens"),
    ):
        fast.loss_function(model)(ids, targets)


def test_a_part_of_a_loss_gives_that_part_of_the_gradients():
    model = model_of()
    ids, targets = batch_of(model, 2, 64)
    _, whole = loss_and_gradients(model, ids, targets)
    model.zero_grad()
    with Products.taken():
        (fast.loss_function(model)(ids, targets) / 4).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad.double(), whole[name] / 4, rtol=1e-2, atol=1e-5)


def test_gradients_of_two_batches_add_up():
    model = model_of()
    first, second = batch_of(model, 2, 64, seed=1), batch_of(model, 2, 64, seed=2)
    _, one = loss_and_gradients(model, *first)
    _, two = loss_and_gradients(model, *second)
    model.zero_grad()
    for ids, targets in (first, second):
        with Products.taken():
            fast.loss_function(model)(ids, targets).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(
            parameter.grad.double(), one[name] + two[name], rtol=1e-4, atol=1e-6
        )


def blocks_after(model, stream, seed, above=None):
    """The compiled blocks on a residual stream with this seed, and the stream's gradient."""
    x = stream.clone().requires_grad_()
    torch.manual_seed(seed)
    with Products.taken():
        assert support.takes_whole_blocks(model, x)
        out = whole_blocks.run(model, x)
    model.zero_grad()
    out.backward(torch.ones_like(out) if above is None else above)
    return out.detach(), x.grad


def test_dropout_is_drawn_from_torch_and_ends_with_training():
    model = model_of(dropout=0.3)
    stream = torch.randn(2, 64, 32)
    first, again, other = (blocks_after(model, stream, seed)[0] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    without = model_of(dropout=0.0)
    evaluated = blocks_after(model.eval(), stream, 1)[0]
    assert torch.equal(evaluated, blocks_after(without, stream, 1)[0])


@pytest.mark.parametrize("threads", [1, 3])
def test_what_is_dropped_does_not_depend_on_the_threads(threads):
    model = model_of(dropout=0.3)
    stream = torch.randn(6, 64, 32)
    first = blocks_after(model, stream, 1)
    torch.set_num_threads(threads)
    assert all(map(torch.equal, first, blocks_after(model, stream, 1)))


def only_mlp(model):
    # A block whose attention gives 0.
    with torch.no_grad():
        for block in model.blocks:
            block.attention.output.weight.zero_()
    return model


@pytest.mark.parametrize("probability", [0.1, 0.5])
def test_as_much_is_dropped_as_asked_and_the_mean_stays(probability):
    model = only_mlp(model_of(n_layers=1, dropout=probability, d_model=64))
    stream = torch.randn(16, 64, 64)
    added = blocks_after(model, stream, 1)[0] - stream
    whole = blocks_after(model.eval(), stream, 1)[0] - stream
    n = added.numel()
    gone = (added == 0).double().mean().item()
    assert abs(gone - probability) < 5 * (probability * (1 - probability) / n) ** 0.5
    kept = added != 0
    torch.testing.assert_close(added[kept], whole[kept] / (1 - probability), rtol=1e-3, atol=1e-5)
    # Neither a row, nor a column, nor a neighbour is favoured.
    for dims in ((0, 2), (0, 1)):
        share = kept.double().mean(dims)
        bound = 6 * (probability * (1 - probability) * len(share) / n) ** 0.5
        assert (share - (1 - probability)).abs().max() < bound
    centred = kept.double() - (1 - probability)
    for a, b in ((centred[..., 1:], centred[..., :-1]), (centred[:, 1:], centred[:, :-1])):
        correlation = (a * b).mean().item() / (probability * (1 - probability))
        assert abs(correlation) < 5 / n**0.5


def test_weights_of_attention_are_dropped_and_the_mean_stays():
    """Over many seeds the mean of what attention adds is what it adds without dropout."""
    model = model_of(n_layers=1, dropout=0.4)
    with torch.no_grad():
        model.blocks[0].mlp.down.weight.zero_()
    stream = torch.randn(2, 16, 32)
    whole = blocks_after(model.eval(), stream, 0)[0] - stream
    model.train()
    drawn = torch.stack([blocks_after(model, stream, seed)[0] - stream for seed in range(1500)])
    error = drawn.std(0) / len(drawn) ** 0.5
    far = ((drawn.mean(0) - whole).abs() > 5 * error + 2e-2 * whole.abs() + 1e-4).double().mean()
    assert far == 0
    # Position 0 has one weight, of 1: where it is gone, its head gives nothing.
    heads = model.config.n_heads
    gone = (drawn[:, :, 0] == 0).all(-1).double().mean().item()
    assert gone == pytest.approx(0.4**heads, abs=0.015)


def mixed(x):
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & WORD
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & WORD
    return x ^ (x >> 31)


def factors(probability, seed, rows, columns):
    """What `dropout.h` says, number by number."""
    found = numpy.zeros((rows, columns))
    places = numpy.arange(columns, dtype=numpy.uint64)
    for row in range(rows):
        key = mixed((seed + (row + 1) * 0x9E3779B97F4A7C15) & WORD) >> 32
        x = (key + places * 0x9E3779B9) & 0xFFFFFFFF
        x = (x ^ (x >> 16)) * 0x7FEB352D & 0xFFFFFFFF
        x = (x ^ (x >> 15)) * 0x846CA68B & 0xFFFFFFFF
        x ^= x >> 16
        found[row] = (x >= int(probability * 2**32)) / (1 - probability)
    return torch.from_numpy(found)


def test_dropout_both_ways_against_the_same_factors_in_float64(monkeypatch):
    """The plain modules in float64, given the factors that the kernel counts out."""
    probability = 0.25  # the same in float32
    model = model_of(dropout=probability)
    heads, d_model = model.config.n_heads, model.config.d_model
    stream, above = torch.randn(4, 32, d_model), torch.randn(4, 32, d_model)
    found, gradient = blocks_after(model, stream, 5, above)
    by_weight = {name: p.grad.double() for name, p in model.blocks.named_parameters()}

    torch.manual_seed(5)
    queue = []
    for seed in torch.empty(2, dtype=torch.int64).random_().tolist():
        weights = [
            factors(probability, mixed((seed + sequence) & WORD), heads * 32, 32)
            for sequence in range(4)
        ]
        queue.append(torch.stack(weights).view(4, heads, 32, 32))
        queue += [
            factors(probability, seed + site, 4 * 32, d_model).view(4, 32, d_model)
            for site in (1, 2)
        ]
    monkeypatch.setattr(transformer.F, "dropout", lambda x, *_: x * queue.pop(0))
    twin = copy.deepcopy(model).double()
    twin.zero_grad()
    right = x = stream.double().requires_grad_()
    # Under a trace the weights of attention are dropped by the same function.
    shared = twin.new_pass(torch.zeros(4, 32, dtype=torch.int64), None, Trace())
    for layer in twin.blocks:
        right = layer(right, shared)
    right.backward(above.double())
    assert not queue
    assert distance(found - stream, right.detach() - stream) < 1e-2 * Products.scale
    assert distance(gradient - above, x.grad - above) < 2e-2 * Products.scale
    for name, parameter in twin.blocks.named_parameters():
        assert distance(by_weight[name], parameter.grad) < 3e-2 * Products.scale, name
