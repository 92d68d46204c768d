"""Cached logits against recomputing the whole text, over random shapes; and reading one row."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minitx.config import ModelConfig, SamplingConfig
from minitx.errors import BadInputError
from minitx.fast import quantized as matrices
from minitx.fast.decode_numpy import fits_one_row
from minitx.fast.quantized import Bfloat16Matrix, DenseMatrix, Int8Matrix
from minitx.generation import Batch, Row, generate
from minitx.generation.text_reader import Decoder, one_row_reader, window_after_slide
from minitx.model import Transformer
from minitx.model.stored_weights import store_weights
from minitx.tokenizer import train_tokenizer

CONTEXT, VOCAB = 20, 17


@st.composite
def models(draw):
    gpt2 = draw(st.booleans())
    heads = draw(st.sampled_from([1, 2, 4]))
    kv = heads if gpt2 else draw(st.sampled_from([n for n in (1, 2, 4) if heads % n == 0]))
    head_dim = draw(st.sampled_from([2, 4, 6]))
    config = ModelConfig(
        vocab_size=VOCAB, context_length=CONTEXT, n_layers=draw(st.integers(1, 3)), n_heads=heads,
        n_kv_heads=kv, head_dim=head_dim, d_ff=draw(st.sampled_from([5, 24])),
        d_model=heads * head_dim if gpt2 else draw(st.sampled_from([6, 12])),
        architecture="gpt2" if gpt2 else "qwen3", tie_embeddings=draw(st.booleans()),
    )  # fmt: skip
    torch.manual_seed(draw(st.integers(0, 2**20)))
    model = Transformer(config).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.4)
    return model


texts = st.lists(st.integers(0, VOCAB - 1), min_size=CONTEXT, max_size=CONTEXT)


@settings(max_examples=60, deadline=None)
@given(
    model=models(),
    rows=st.lists(st.tuples(texts, st.integers(1, CONTEXT)), min_size=1, max_size=3),
)
@torch.inference_mode()
def test_cached_logits_are_the_recomputed_ones_at_every_position(model, rows):
    """Prompts of unequal lengths; rows that are full leave, and the last is read by itself."""
    decoder = Decoder(model)
    logits = decoder.read([text[:size] for text, size in rows])
    going = [(model(torch.tensor([text]))[0], text, size) for text, size in rows]
    while True:
        expected = torch.stack([whole[size - 1] for whole, _, size in going])
        assert float((logits - expected).abs().max()) < 1e-10
        for place in reversed(range(len(going))):
            if going[place][2] == CONTEXT:
                decoder.leave(place)
                last = going.pop()
                if place < len(going):
                    going[place] = last
        if not going:
            return
        logits = decoder.feed([text[size] for _, text, size in going])
        going = [(whole, text, size + 1) for whole, text, size in going]


@settings(max_examples=20, deadline=None)
@given(model=models(), text=texts, more=texts)
@torch.inference_mode()
def test_after_a_slide_logits_are_those_of_the_newest_window(model, text, more):
    decoder = Decoder(model)
    decoder.read([text])
    assert decoder.full_rows() == [0]
    kept = window_after_slide(CONTEXT) - 1
    decoder.slide(0, text[-kept:])
    window = text[-kept:]
    for token in more[: CONTEXT - kept]:
        window = [*window, token]
        expected = model(torch.tensor([window]))[:, -1]
        assert float((decoder.feed([token]) - expected).abs().max()) < 1e-10


def test_one_row_is_what_reads_one_row(monkeypatch):
    model = small()
    calls = []
    reader = type(one_row_reader(model))
    monkeypatch.setattr(reader, "feed", lambda *_: calls.append(1) or torch.zeros(1, VOCAB))
    with torch.inference_mode():
        decoder = Decoder(model)
        decoder.read([[1, 2]])
        decoder.feed([3])
    assert calls == [1]


def test_ablated_heads_and_half_precision_are_read_the_plain_way():
    model = small()
    assert fits_one_row(model)
    model.ablated_heads.add((0, 0))
    assert not fits_one_row(model)
    assert not fits_one_row(small().bfloat16())


def small(**changes):
    torch.manual_seed(3)
    values = {
        "vocab_size": VOCAB, "context_length": CONTEXT, "n_layers": 2, "n_heads": 2,
        "n_kv_heads": 1, "d_model": 16, "d_ff": 40, "head_dim": 8,
    }  # fmt: skip
    return Transformer(ModelConfig(**(values | changes))).eval()


# Weights in fewer bits


@pytest.mark.parametrize("shape", [(40, 16), (16, 40), (8, 8), (5, 33), (65, 96), (384, 40)])
@pytest.mark.parametrize("kind", [DenseMatrix, Bfloat16Matrix, Int8Matrix])
def test_products_are_those_of_the_weights_kept(kind, shape):
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(shape, generator=generator)
    x = torch.randn(shape[1], generator=generator)
    matrix = kind(weight)
    kept = weight if kind is DenseMatrix else matrix.restored
    tolerance = 1e-5 if kind is DenseMatrix else 0.02
    out = np.full(shape[0], np.nan, np.float32)
    row = np.zeros(shape[1], np.float32)
    product = matrix.bind(row, out)
    # Bound once, it reads what the vector is by then.
    row[:] = x
    product()
    expected = (kept @ x).numpy()
    assert np.abs(out - expected).max() < tolerance * np.abs(expected).max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("engines", [[], torch.backends.quantized.supported_engines])
def test_dense_products_with_either_kernel(dtype, engines, monkeypatch):
    monkeypatch.setattr(matrices, "_engines", lambda: frozenset(engines))
    weight = torch.randn(384, 50, generator=torch.Generator().manual_seed(3), dtype=dtype)
    x, out = np.linspace(-1, 1, 50, dtype=weight.numpy().dtype), np.empty(384, weight.numpy().dtype)
    matrix = DenseMatrix(weight)
    matrix.bind(x, out)()
    exact = weight.double().numpy() @ x
    assert np.abs(out - exact).max() < 40 * torch.finfo(dtype).eps
    assert matrix.n_bytes == 384 * 50 * dtype.itemsize


@pytest.mark.parametrize("largest", [1.0, 1e6])
@pytest.mark.parametrize("engines", [[], torch.backends.quantized.supported_engines])
def test_bfloat16_products_with_either_kernel(largest, engines, monkeypatch):
    """Also of weights that float16 can't hold, and of very small ones."""
    monkeypatch.setattr(matrices, "_engines", lambda: frozenset(engines))
    weight = torch.randn(48, 50, generator=torch.Generator().manual_seed(4)) * 1e-5
    weight[0, 0] = largest
    x, out = np.linspace(-1, 1, 50, dtype=np.float32), np.empty(48, np.float32)
    matrix = Bfloat16Matrix(weight)
    assert torch.equal(matrix.restored, weight.bfloat16().float())
    matrix.bind(x, out)()
    exact = matrix.restored.double().numpy() @ x
    # Half a step of bfloat16 for the result, and for x; or 2^-25 for each weight.
    assert np.abs(out[0] - exact[0]) < 2**-7 * np.abs(exact[0])
    assert np.abs(out[1:] - exact[1:]).max() < 1e-6


def test_int8_is_within_half_a_step_and_the_largest_is_127():
    weight = torch.randn(6, 50, generator=torch.Generator().manual_seed(2))
    weight[3] = 0.0
    matrix = Int8Matrix(weight)
    assert int(matrix.integers.abs().amax()) == 127
    step = matrix.scale.float()[:, None]
    # The scale is rounded to bfloat16, so the very largest may be cut by half a percent.
    cut = 0.005 * weight.abs().amax(1, keepdim=True)
    assert bool(((matrix.restored - weight).abs() <= 0.5 * step + cut + 1e-9).all())
    assert not bool(matrix.restored[3].any())
    # The kernel reads 64 columns, and two bytes of scale for each row.
    assert matrix.n_bytes == 6 * 64 + 12


@pytest.mark.parametrize("weight_format", ["bfloat16", "int8"])
@pytest.mark.parametrize("architecture", ["qwen3", "gpt2"])
def test_stored_weights_are_what_both_ways_compute_with(weight_format, architecture):
    model = small(architecture=architecture, n_kv_heads=1 if architecture == "qwen3" else 2)
    before = model.blocks[0].mlp.down.weight.detach().clone()
    store_weights(model, weight_format)
    after = model.blocks[0].mlp.down.weight.detach()
    assert 0 < float((after - before).abs().max()) < 0.02 * float(before.abs().max())
    assert len(model.stored_matrices) == 9
    ids = [1, 5, 2, 8, 3, 1]
    with torch.inference_mode():
        decoder = Decoder(model)
        decoder.read([ids[:2]])
        found = torch.stack([decoder.feed([token])[0].clone() for token in ids[2:]])
        expected = model(torch.tensor([ids]))[0, 2:]
    # Vectors are rounded to bfloat16 on the way, and nothing else differs.
    assert float((found - expected).abs().max()) < 0.03 * float(expected.abs().max())


def test_no_such_format():
    with pytest.raises(BadInputError, match="quantize"):
        store_weights(small(), "int3")


# Rows that join and leave


def test_a_row_says_the_same_whoever_comes_and_goes():
    tokenizer = train_tokenizer("abcdefghijklmno\n", "char", 0)
    model = small(vocab_size=tokenizer.vocab_size).double()
    settings_of = [
        SamplingConfig(temperature=1.0, max_new_tokens=40, seed=1),
        SamplingConfig(temperature=0.0, max_new_tokens=7),
        SamplingConfig(temperature=1.3, top_k=4, max_new_tokens=30, frequency_penalty=0.5, seed=2),
        SamplingConfig(temperature=1.0, max_new_tokens=25, banned_strings=("a",), seed=3),
        SamplingConfig(temperature=1.0, max_new_tokens=30, logit_bias={3: 2.0}, seed=4),
    ]
    prompts = ["abc", "a", "hello".replace("l", "k"), "mnomno", "b\n"]
    rows = [
        Row(tokenizer.encode(prompt).tolist(), config)
        for prompt, config in zip(prompts, settings_of, strict=True)
    ]
    stranger = Row([1], SamplingConfig(max_new_tokens=500))
    batch = Batch(model, tokenizer)
    batch.add([rows[0], stranger])
    for row in rows[1:]:
        for _ in range(3):
            batch.step()
        batch.add([row])
    batch.remove(stranger)
    batch.remove(stranger)
    while batch.rows:
        batch.step()
    assert stranger.finish_reason is None
    for row, prompt, config in zip(rows, prompts, settings_of, strict=True):
        alone = generate(model, tokenizer, [prompt], config)[0]
        assert (row.ids, row.stream.text) == (alone.ids, alone.text)
        assert row.finish_reason == "length"
    assert batch.add([]) == []
    assert batch.step() == []


def test_a_batch_that_is_cleared_goes_on():
    tokenizer = train_tokenizer("abcdefghijklmno\n", "char", 0)
    model = small(vocab_size=tokenizer.vocab_size)
    batch = Batch(model, tokenizer)
    batch.add([Row([1, 2], SamplingConfig(max_new_tokens=9))])
    batch.clear()
    assert not batch.rows
    row = Row([1, 2], SamplingConfig(max_new_tokens=1))
    assert [piece.finish_reason for piece in batch.add([row])] == ["length"]
    assert not batch.rows
