import cmath
import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from minitx.config import ModelConfig
from minitx.errors import BadInputError
from minitx.model import KVCache, Trace, Transformer, matrix_parameters, transformer
from minitx.model.transformer import (
    IGNORED,
    Attention,
    causal_mask,
    eager_attention,
    rotary_table,
    rotate,
)

CONFIG = ModelConfig(
    vocab_size=29, context_length=24, n_layers=2, n_heads=4, n_kv_heads=2, d_model=24, d_ff=40,
    head_dim=6,
)  # fmt: skip
GPT2 = dataclasses.replace(CONFIG, architecture="gpt2", n_kv_heads=4)
UNTIED = dataclasses.replace(CONFIG, tie_embeddings=False, n_kv_heads=1)
SHAPES = pytest.mark.parametrize("config", [CONFIG, GPT2, UNTIED], ids=["qwen3", "gpt2", "untied"])
FORMS = pytest.mark.parametrize("form", ["sdpa", "eager"])


def make_model(config=CONFIG, dtype=torch.float64, seed=0):
    torch.manual_seed(seed)
    model = Transformer(config).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.eval()


def logits_of(model, ids, form, **arguments):
    """With torch's kernel of attention, or with the weights in the open, as under a trace."""
    return model(ids, trace=Trace() if form == "eager" else None, **arguments)


def loss_of(model, ids, targets, form):
    if form == "sdpa":
        return model.loss(ids, targets)
    logits = logits_of(model, ids, form).flatten(0, 1)
    return F.cross_entropy(logits, targets.flatten(), ignore_index=IGNORED)


def window_mask(queries, keys, device=None):
    """The last three positions, its own among them."""
    return causal_mask(queries, keys, device).triu(keys - queries - 2)


def open_mask(queries, keys, device=None):
    return torch.ones(queries, keys, dtype=torch.bool, device=device)


@SHAPES
def test_number_of_parameters_is_as_the_config_says(config):
    assert sum(p.numel() for p in Transformer(config).parameters()) == config.n_parameters


# The causal mask


def future_leaks(model, ids, form):
    """Whether changing later tokens moves any earlier logit, by a single bit."""
    for cut in range(ids.size(1) - 1):
        changed = ids.clone()
        changed[:, cut + 1 :] = (changed[:, cut + 1 :] + 1) % model.config.vocab_size
        before, after = (logits_of(model, x, form)[:, : cut + 1] for x in (ids, changed))
        if not before.equal(after):
            return True
    return False


@SHAPES
@FORMS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_future_tokens_move_no_past_logit(config, form, dtype):
    assert not future_leaks(make_model(config, dtype), torch.randint(29, (2, 24)), form)


@FORMS
def test_open_mask_is_caught(monkeypatch, form):
    """The test above can fail: open the mask on purpose, and it does."""
    monkeypatch.setattr(transformer, "causal_mask", open_mask)
    assert future_leaks(make_model(), torch.randint(29, (2, 24)), form)


@SHAPES
@FORMS
def test_a_patched_mask_is_used_from_the_next_pass_on(monkeypatch, config, form):
    model = make_model(config)
    ids = torch.randint(29, (2, 24))
    before = logits_of(model, ids, form)
    monkeypatch.setattr(transformer, "causal_mask", window_mask)
    windowed = logits_of(model, ids, form)
    torch.testing.assert_close(windowed[:, :3], before[:, :3])
    assert (windowed[:, 3:] - before[:, 3:]).abs().amax(-1).min() > 1e-6
    # Two layers of a window of three see five tokens.
    changed = ids.clone()
    changed[:, 0] = (ids[:, 0] + 1) % 29
    assert logits_of(model, changed, form)[:, 5:].equal(windowed[:, 5:])
    assert not logits_of(model, changed, form)[:, 4].equal(windowed[:, 4])
    monkeypatch.undo()
    assert logits_of(model, ids, form).equal(before)


@SHAPES
@FORMS
@pytest.mark.parametrize("ragged", [False, True])
def test_a_patched_mask_is_used_for_single_tokens_and_for_ragged_rows(
    monkeypatch, config, form, ragged
):
    monkeypatch.setattr(transformer, "causal_mask", window_mask)
    model = make_model(config)
    ids = torch.randint(29, (2, 24))
    expected = logits_of(model, ids, form)
    cache = KVCache(config, 2, 24, dtype=torch.float64)
    held = [5, 3] if ragged else [5, 5]
    logits_of(model, ids[:, :5], form, cache=cache, lengths=torch.tensor(held))
    for _ in range(10):
        tokens = torch.stack([ids[row, n] for row, n in enumerate(held)])[:, None]
        logits = logits_of(model, tokens, form, cache=cache)
        for row, n in enumerate(held):
            torch.testing.assert_close(logits[row, 0], expected[row, n], atol=1e-10, rtol=1e-10)
        held = [n + 1 for n in held]


class WindowedAttention(Attention):
    """A student's: as above, by a mask of its own."""

    def forward(self, x, shared):
        size = x.size(1)
        own = dataclasses.replace(shared, mask=window_mask(size, size), is_causal=False)
        return super().forward(x, own)


@SHAPES
@FORMS
def test_a_changed_layer_is_computed(monkeypatch, config, form):
    model, ids = make_model(config), torch.randint(29, (2, 24))
    for layer, block in enumerate(model.blocks):
        windowed = WindowedAttention(config, layer).double()
        windowed.load_state_dict(block.attention.state_dict())
        block.attention = windowed
    found = logits_of(model.eval(), ids, form)
    monkeypatch.setattr(transformer, "causal_mask", window_mask)
    torch.testing.assert_close(found, logits_of(make_model(config), ids, form))


@SHAPES
@FORMS
def test_hooks_on_every_part_are_called(config, form):
    model, ids = make_model(config).train(), torch.randint(29, (2, 9))
    parts = {name: part for name, part in model.named_modules()
             if not isinstance(part, torch.nn.ModuleList)}  # fmt: skip
    calls = []
    for name, part in parts.items():
        part.register_forward_pre_hook(lambda *_, name=name: calls.append(("before", name)))
        part.register_forward_hook(lambda *_, name=name: calls.append(("after", name)))
        part.register_full_backward_hook(lambda *_, name=name: calls.append(("back", name)))
    loss_of(model, ids, ids, form).backward()
    whens = ("before", "after", "back")
    assert sorted(calls) == sorted((when, name) for when in whens for name in parts)


@FORMS
def test_what_a_hook_puts_out_is_what_goes_on(form):
    model, ids = make_model(), torch.randint(29, (2, 9))
    hook = model.blocks[0].mlp.register_forward_hook(lambda *given: torch.zeros_like(given[-1]))
    found = logits_of(model, ids, form)
    hook.remove()
    assert not found.equal(logits_of(model, ids, form))
    with torch.no_grad():
        model.blocks[0].mlp.down.weight.zero_()
    torch.testing.assert_close(found, logits_of(model, ids, form))


@FORMS
def test_a_subclass_of_the_model_is_computed(form):
    class Doubled(Transformer):
        def unembed(self, x):
            return 2 * super().unembed(x)

    model, ids = make_model(), torch.randint(29, (2, 9))
    doubled = Doubled(CONFIG).double().eval()
    doubled.load_state_dict(model.state_dict())
    torch.testing.assert_close(logits_of(doubled, ids, form), 2 * logits_of(model, ids, form))
    expected = F.cross_entropy(2 * model(ids).flatten(0, 1), ids.flatten())
    torch.testing.assert_close(doubled.loss(ids, ids), expected)
    torch.testing.assert_close(doubled.token_losses(ids, ids).mean(), expected.float())


def test_causal_mask():
    assert causal_mask(3, 3).tolist() == [[True, False, False], [True, True, False], [True] * 3]
    assert causal_mask(2, 4).tolist() == [[True, True, True, False], [True] * 4]


# Attention


@settings(max_examples=40, deadline=None)
@given(
    batch=st.integers(1, 3), heads=st.integers(1, 3), seq=st.integers(1, 9),
    dim=st.integers(1, 8), seed=st.integers(0, 2**30),
)  # fmt: skip
def test_both_forms_equal_a_brute_force(batch, heads, seq, dim, seed):
    random = torch.Generator().manual_seed(seed)
    q, k, v = (
        torch.randn(batch, heads, seq, dim, generator=random, dtype=torch.float64) for _ in range(3)
    )
    expected = torch.zeros_like(q)
    for b in range(batch):
        for h in range(heads):
            for i in range(seq):
                scores = [float(q[b, h, i] @ k[b, h, j]) / math.sqrt(dim) for j in range(i + 1)]
                total = sum(math.exp(score) for score in scores)
                for j, score in enumerate(scores):
                    expected[b, h, i] += math.exp(score) / total * v[b, h, j]
    eager, weights = eager_attention(q, k, v, causal_mask(seq, seq))
    torch.testing.assert_close(eager, expected, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(weights.sum(-1), torch.ones(batch, heads, seq, dtype=torch.float64))
    assert weights.triu(1).abs().max() == 0
    sdpa = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    torch.testing.assert_close(sdpa, expected, atol=1e-12, rtol=1e-12)


@SHAPES
def test_both_forms_give_the_same_loss_and_gradients(config):
    ids = torch.randint(29, (3, 24))
    targets = ids.roll(-1, 1)
    targets[1, 3:7] = IGNORED
    model = make_model(config)
    losses, gradients = [], []
    for form in ("sdpa", "eager"):
        model.zero_grad()
        loss = loss_of(model, ids, targets, form)
        loss.backward()
        losses.append(loss.detach())
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters()})
    torch.testing.assert_close(*losses, atol=1e-12, rtol=1e-12)
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], atol=1e-12, rtol=1e-9)


def test_plain_model_stores_no_weights_of_attention(monkeypatch):
    monkeypatch.setattr(transformer, "eager_attention", None)
    model = make_model()
    ids = torch.randint(29, (2, 24))
    model.loss(ids, ids).backward()
    with pytest.raises(TypeError):
        model(ids, trace=Trace())


# Positions


@settings(max_examples=40, deadline=None)
@given(pairs=st.integers(1, 5), position=st.integers(0, 40), seed=st.integers(0, 2**30))
def test_rotation_is_multiplication_by_a_complex_number(pairs, position, seed):
    head_dim, theta = 2 * pairs, 10_000.0
    cosine, sine = rotary_table(torch.arange(41), head_dim, theta, torch.float64)
    x = torch.randn(head_dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    turned = rotate(x, cosine[position], sine[position])
    for i in range(pairs):
        angle = position * theta ** (-2 * i / head_dim)
        expected = complex(x[i], x[i + pairs]) * cmath.exp(1j * angle)
        assert abs(complex(turned[i], turned[i + pairs]) - expected) < 1e-12


@settings(max_examples=20, deadline=None)
@given(a=st.integers(0, 20), b=st.integers(0, 20), shift=st.integers(0, 20))
def test_scores_depend_on_distance_alone(a, b, shift):
    cosine, sine = rotary_table(torch.arange(41), 8, 100.0, torch.float64)
    random = torch.Generator().manual_seed(1)
    q, k = torch.randn(2, 8, generator=random, dtype=torch.float64)

    def score(i, j):
        return float(rotate(q, cosine[i], sine[i]) @ rotate(k, cosine[j], sine[j]))

    assert score(a, b) == pytest.approx(score(a + shift, b + shift), abs=1e-12)


# The cache


@SHAPES
@FORMS
@pytest.mark.parametrize("seed", range(4))
def test_cached_logits_equal_recomputation(config, form, seed):
    """Rows of unequal length, fed in pieces of random size, next to one pass over everything."""
    model = make_model(config, seed=seed)
    random = torch.Generator().manual_seed(seed)
    ids = torch.randint(29, (3, 24), generator=random)
    expected = model(ids)
    cache = KVCache(config, 3, 24, dtype=torch.float64)
    held = [0, 0, 0]
    with torch.no_grad():
        while min(held) < 20:
            size = int(torch.randint(1, 5, (1,), generator=random))
            real = torch.randint(1, size + 1, (3,), generator=random)
            if max(held) + size > 24:
                break
            piece = torch.stack([ids[r, held[r] : held[r] + size].clone() for r in range(3)])
            logits = logits_of(model, piece, form, cache=cache, lengths=real)
            for row in range(3):
                for i in range(int(real[row])):
                    torch.testing.assert_close(
                        logits[row, i], expected[row, held[row] + i], atol=1e-10, rtol=1e-10
                    )
                held[row] += int(real[row])
            assert cache.lengths.tolist() == held
    assert max(held) > 8


@SHAPES
def test_last_only_is_the_last_real_token(config):
    model = make_model(config)
    ids = torch.randint(29, (3, 10))
    lengths = torch.tensor([10, 3, 7])
    everything = model(ids)
    last = model(ids, lengths=lengths, last_only=True)
    for row in range(3):
        torch.testing.assert_close(last[row, 0], everything[row, lengths[row] - 1])
    torch.testing.assert_close(model(ids, last_only=True), everything[:, -1:])


def test_cache_rows_can_be_turned_back_selected_and_replaced():
    model = make_model()
    ids = torch.randint(29, (3, 12))
    expected = model(ids)
    with torch.no_grad():
        cache = KVCache(CONFIG, 3, 24, dtype=torch.float64)
        model(ids, cache=cache)
        cache.truncate(torch.tensor([4, 12, 6]))
        cache.select([2, 0])
        assert cache.lengths.tolist() == [6, 4]
        assert cache.common_length is None
        tokens = torch.stack([ids[2, 6], ids[0, 4]])[:, None]
        logits = model(tokens, cache=cache)
        torch.testing.assert_close(logits[0, 0], expected[2, 6])
        torch.testing.assert_close(logits[1, 0], expected[0, 4])
        other = KVCache(CONFIG, 1, 24, dtype=torch.float64)
        model(ids[1:2, :9], cache=other)
        cache.replace([1], other)
        assert cache.lengths.tolist() == [7, 9]
        cache.truncate(5)
        assert cache.common_length == 5
        logits = model(torch.stack([ids[2, 5], ids[1, 5]])[:, None], cache=cache)
        torch.testing.assert_close(logits[1, 0], expected[1, 5])


def test_cache_cannot_be_turned_forward_or_overfilled():
    model = make_model()
    cache = KVCache(CONFIG, 1, 5, dtype=torch.float64)
    model(torch.zeros(1, 4, dtype=torch.int64), cache=cache)
    with pytest.raises(ValueError, match="at most what it holds"):
        cache.truncate(5)
    with pytest.raises(BadInputError, match="holds 4 of 5 positions, and 2 more"):
        model(torch.zeros(1, 2, dtype=torch.int64), cache=cache)
    with pytest.raises(BadInputError, match="exceeds the context"):
        model(torch.zeros(1, 2, dtype=torch.int64), cache=KVCache(CONFIG, 1, 25))


def test_text_longer_than_the_context_is_refused():
    with pytest.raises(BadInputError, match="25 tokens are longer than the context of 24"):
        make_model()(torch.zeros(1, 25, dtype=torch.int64))


# Looking inside


@SHAPES
def test_trace_tells_what_was_computed(config):
    model = make_model(config)
    ids = torch.randint(29, (2, 9))
    trace = Trace()
    logits = model(ids, trace=trace)
    torch.testing.assert_close(logits, model(ids))
    torch.testing.assert_close(model.unembed(trace.residual[-1]), logits)
    assert len(trace.residual) == config.n_layers + 1
    for layer in range(config.n_layers):
        assert trace.attention[layer].shape == (2, 4, 9, 9)
        assert trace.queries[layer].shape == trace.keys[layer].shape == (2, 4, 9, 6)
        torch.testing.assert_close(
            trace.attention[layer] @ trace.values[layer], trace.head_outputs[layer]
        )


# Training


@pytest.mark.parametrize("at_once", [1, 28, 3 * 29, 2**20])
def test_token_losses_are_those_of_all_logits_whatever_is_computed_at_once(monkeypatch, at_once):
    monkeypatch.setattr(transformer, "_CPU_LOGITS", at_once)
    model = make_model()
    ids, targets = torch.randint(29, (2, 3, 7))
    targets[1, 2] = IGNORED
    losses = -model(ids).log_softmax(-1).gather(-1, targets.clamp(0)[..., None])[..., 0]
    expected = losses.masked_fill(targets == IGNORED, 0.0)
    torch.testing.assert_close(model.token_losses(ids, targets), expected.float())


def test_loss_is_the_mean_of_the_token_losses():
    model = make_model()
    ids = torch.randint(29, (2, 9))
    targets = ids.roll(-1, 1)
    targets[0, 4] = -100
    losses = model.token_losses(ids, targets)
    assert losses.dtype == torch.float32
    assert losses[0, 4] == 0
    assert float(losses.sum() / 17) == pytest.approx(float(model.loss(ids, targets)), rel=1e-6)
    log_probabilities = model(ids).log_softmax(-1)
    assert float(-log_probabilities[1, 3, targets[1, 3]]) == pytest.approx(
        float(losses[1, 3]), rel=1e-5
    )


def test_dropout_is_for_training_alone_and_follows_the_seed():
    model = make_model(dataclasses.replace(CONFIG, dropout=0.3))
    ids = torch.randint(29, (2, 9))
    assert model(ids).equal(model(ids))
    model.train()
    torch.manual_seed(5)
    one = model(ids)
    torch.manual_seed(5)
    assert model(ids).equal(one)
    assert not model(ids).equal(one)


def test_starting_loss_is_that_of_a_guess():
    torch.manual_seed(0)
    model = Transformer(dataclasses.replace(CONFIG, vocab_size=500))
    ids = torch.randint(500, (8, 24))
    assert float(model.loss(ids, ids.roll(-1, 1))) == pytest.approx(math.log(500), abs=0.1)


def test_matrices_and_their_sections():
    model = Transformer(CONFIG)
    found = {name: (tuple(p.shape), rows) for name, p, rows in matrix_parameters(model)}
    assert len(found) == 2 * 4
    assert found["blocks.0.attention.qkv.weight"] == ((48, 24), (24, 12, 12))
    assert found["blocks.1.mlp.gate_up.weight"] == ((80, 24), (40, 40))
    assert all(sum(rows) == shape[0] for shape, rows in found.values())


def test_model_moves_between_formats():
    model = make_model(dtype=torch.float32)
    ids = torch.randint(29, (1, 9))
    single = model(ids)
    double = model.double()(ids)
    torch.testing.assert_close(single.double(), double, atol=1e-4, rtol=1e-4)
    assert model.bfloat16()(ids).dtype == torch.bfloat16


def test_inference_mode_leaves_nothing_that_training_trips_over():
    model = make_model(dtype=torch.float32)
    ids = torch.randint(29, (1, 9))
    with torch.inference_mode():
        model(ids)
        model(ids, trace=Trace())
    model.loss(ids, ids).backward()
