import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minitx.config import ModelConfig
from minitx.errors import BadInputError
from minitx.inspection.attention_maps import (
    AttentionMaps,
    Looked,
    most_looked_at,
    read_attention,
    require_fits,
)
from minitx.model import Transformer


class Letters:
    """Shows a token id as itself."""

    def piece(self, token):
        return f"t{token}"


def make_model(architecture="qwen3", n_layers=2, n_heads=4, n_kv_heads=None, head_dim=8, seed=0):
    torch.manual_seed(seed)
    config = ModelConfig(
        architecture=architecture,
        vocab_size=40,
        context_length=32,
        n_layers=n_layers,
        n_heads=n_heads,
        n_kv_heads=n_kv_heads or n_heads,
        d_model=n_heads * head_dim,
        d_ff=48,
        head_dim=head_dim,
        dropout=0.1,
    )
    model = Transformer(config)
    # Larger weights than at the start of training, so that attention has a pattern.
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.3)
    return model


def some_ids(n, seed=0):
    return np.random.default_rng(seed).integers(0, 40, n)


shapes = st.tuples(
    st.sampled_from(["qwen3", "gpt2"]), st.integers(1, 3), st.sampled_from([1, 2, 4]),
    st.integers(1, 32), st.integers(0, 10**6),
)  # fmt: skip


@settings(deadline=None, max_examples=15)
@given(shapes)
def test_rows_sum_to_one_and_nothing_looks_ahead(shape):
    architecture, n_layers, n_heads, seq, seed = shape
    model = make_model(architecture, n_layers, n_heads, seed=seed)
    maps = read_attention(model, Letters(), some_ids(seq, seed))
    assert maps.weights.shape == (n_layers, n_heads, seq, seq)
    assert maps.weights.dtype == np.float32
    np.testing.assert_allclose(maps.weights.sum(axis=-1), 1.0, atol=1e-5)
    assert (np.triu(maps.weights, 1) == 0.0).all()
    assert (maps.weights >= 0).all()
    assert maps.tokens == tuple(f"t{i}" for i in maps.ids)


@pytest.mark.parametrize(("architecture", "n_kv_heads"), [("qwen3", 4), ("qwen3", 2), ("gpt2", 4)])
def test_value_norms_add_up_to_what_the_heads_do(architecture, n_kv_heads):
    """Weights times moved values, summed over heads and keys, are the attention layer's output."""
    model = make_model(architecture, n_kv_heads=n_kv_heads).eval()
    ids = some_ids(12)
    outputs = []
    hooks = [
        block.attention.register_forward_hook(lambda module, args, output: outputs.append(output))
        for block in model.blocks
    ]
    from minitx.model import Trace

    trace = Trace()
    with torch.no_grad():
        model(torch.from_numpy(ids)[None], trace=trace)
    for hook in hooks:
        hook.remove()
    maps = read_attention(model, Letters(), ids)
    for layer, block in enumerate(model.blocks):
        matrix = block.attention.output.weight.detach().numpy()
        total = np.zeros((12, model.config.d_model))
        for head in range(4):
            part = matrix[:, head * 8 : head * 8 + 8]
            values = trace.values[layer][0, head].numpy()
            moved = np.array([part @ value for value in values])
            lengths = np.linalg.norm(moved, axis=1)
            np.testing.assert_allclose(maps.value_lengths[layer, head], lengths, rtol=1e-5)
            np.testing.assert_allclose(
                maps.norms(layer, head), maps.weights[layer, head] * lengths[None], rtol=1e-5
            )
            total += maps.weights[layer, head] @ moved
        bias = block.attention.output.bias
        total += 0 if bias is None else bias.detach().numpy()
        output = outputs[layer][0] if isinstance(outputs[layer], tuple) else outputs[layer]
        np.testing.assert_allclose(total, output[0].numpy(), atol=1e-5)


def test_reading_leaves_the_model_as_it_was():
    model = make_model().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first = read_attention(model, Letters(), some_ids(9))
    second = read_attention(model, Letters(), some_ids(9))
    assert model.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    # Dropout is off while reading: the same text gives the same maps.
    np.testing.assert_array_equal(first.weights, second.weights)


def planted(weights):
    weights = np.asarray(weights, np.float32)
    seq = weights.shape[-1]
    return AttentionMaps(
        tuple("abcdefgh"[:seq]), np.arange(seq), weights, np.ones(weights.shape[:3], np.float32)
    )


def test_the_average_is_over_the_heads_of_a_layer_or_of_all():
    maps = planted(np.random.default_rng(0).random((3, 2, 4, 4)))
    np.testing.assert_allclose(maps.average(1), (maps.weights[1, 0] + maps.weights[1, 1]) / 2)
    total = sum(maps.weights[layer, head] for layer in range(3) for head in range(2))
    np.testing.assert_allclose(maps.average(), total / 6, rtol=1e-6)


def test_most_looked_at_is_strongest_first_and_nearest_in_ties():
    rows = np.zeros((4, 4), np.float32)
    rows[3] = [0.2, 0.4, 0.2, 0.2]
    rows[1] = [0.5, 0.5, 9, 9]
    tokens = ("a", "b", "c", "d")
    assert [one.position for one in most_looked_at(rows, tokens, 3, 5)] == [1, 3, 2, 0]
    assert most_looked_at(rows, tokens, 1, 1) == [Looked(1, "b", 0.5)]
    assert [one.position for one in most_looked_at(rows, tokens, 1, 9)] == [1, 0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda maps: maps.head(2, 0), "layer 2 does not exist. Choose a layer from 0 to 1"),
        (lambda maps: maps.head(-1, 0), "layer -1 does not exist"),
        (lambda maps: maps.head(0, 1), "head 1 does not exist. Choose head 0, the only one"),
        (lambda maps: maps.norms(0, 3), "head 3 does not exist"),
        (lambda maps: maps.average(5), "layer 5 does not exist"),
        (lambda maps: most_looked_at(maps.head(0, 0), maps.tokens, 3, 1), "token 3 does not exist"),
    ],
)
def test_what_does_not_exist_is_named_with_what_does(call, message):
    maps = planted(np.ones((2, 1, 3, 3)))
    with pytest.raises(BadInputError, match=message):
        call(maps)


def test_an_empty_or_too_long_text_is_refused():
    config = make_model().config
    require_fits(32, config)
    with pytest.raises(BadInputError, match="33 tokens long, and the model's context is 32"):
        require_fits(33, config)
    with pytest.raises(BadInputError, match="empty"):
        require_fits(0, config)


@pytest.mark.parametrize(("architecture", "n_kv_heads"), [("qwen3", 4), ("qwen3", 2), ("gpt2", 4)])
def test_maps_equal_the_attentions_of_transformers(architecture, n_kv_heads, tmp_path):
    transformers = pytest.importorskip("transformers")
    from minitx.checkpoint import save_model
    from minitx.tokenizer import train_tokenizer

    model = make_model(architecture, n_kv_heads=n_kv_heads)
    text = "".join(chr(33 + i) for i in range(40))
    tokenizer = train_tokenizer(text, "char", 0)
    model = Transformer(dataclasses.replace(model.config, vocab_size=tokenizer.vocab_size))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.3)
    save_model(tmp_path / "model", model, tokenizer)
    reference = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "model", attn_implementation="eager"
    ).eval()
    ids = some_ids(20) % tokenizer.vocab_size
    with torch.no_grad():
        expected = reference(torch.from_numpy(ids)[None], output_attentions=True).attentions
    maps = read_attention(model, tokenizer, ids)
    assert len(expected) == maps.n_layers
    for layer, theirs in enumerate(expected):
        np.testing.assert_allclose(maps.weights[layer], theirs[0].numpy(), atol=2e-6)
