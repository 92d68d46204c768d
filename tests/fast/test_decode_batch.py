"""The kernel that reads several texts against the plain model."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_models import built, model_configs

from minitx.config import ModelConfig
from minitx.fast.decode_native import NativeDecoder
from minitx.fast.library import library
from minitx.fast.quantized import quantize
from minitx.generation.text_reader import TextReader

pytestmark = pytest.mark.skipif(library() is None, reason="no kernels were compiled")

CONTEXT = 24

TINY = ModelConfig(
    vocab_size=9, context_length=CONTEXT, n_layers=1, n_heads=2, n_kv_heads=2, head_dim=4,
    d_model=8, d_ff=12, tie_embeddings=False,
)  # fmt: skip


def texts_of(config, lengths, seed):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(config.vocab_size, (len(lengths), CONTEXT), generator=generator).tolist()
    return [(row, size) for row, size in zip(ids, lengths, strict=True)]


@torch.inference_mode()
def followed(model, rows, steps):
    """Logits of each step, `(steps, rows, vocab)`, after prompts of unequal lengths."""
    reader = TextReader(model)
    reader.read([text[:size] for text, size in rows])
    return torch.stack(
        [reader.feed([text[size + n] for text, size in rows]).clone() for n in range(steps)]
    )


@settings(max_examples=50, deadline=None)
@given(
    weight_format=st.sampled_from(["float32", "bfloat16", "int8"]),
    config=model_configs(CONTEXT),
    lengths=st.lists(st.integers(1, CONTEXT - 3), min_size=2, max_size=30),
    seed=st.integers(0, 2**20),
)
def test_logits_are_those_of_the_whole_text_in_double_precision(
    weight_format, config, lengths, seed
):
    model = built(config, seed)
    if weight_format != "float32":
        quantize(model, weight_format)
    rows = texts_of(config, lengths, seed)
    found = followed(model, rows, 3)
    with torch.inference_mode():
        exact = copy.deepcopy(model).double()(torch.tensor([text for text, _ in rows]))
    for n, logits in enumerate(found):
        expected = torch.stack([exact[row, size + n] for row, (_, size) in enumerate(rows)])
        assert float((logits - expected).abs().max()) < 2e-5 * max(1.0, float(exact.abs().max()))


@pytest.mark.parametrize("weight_format", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("architecture", ["qwen3", "gpt2"])
def test_a_row_has_the_same_bits_alone_and_beside_others_and_on_any_number_of_threads(
    architecture, weight_format
):
    config = ModelConfig(
        vocab_size=50, context_length=CONTEXT, n_layers=2, n_heads=4, n_kv_heads=4, head_dim=16,
        d_model=64, d_ff=500, architecture=architecture,
    )  # fmt: skip
    model, threads = built(config), torch.get_num_threads()
    if weight_format != "float32":
        quantize(model, weight_format)
    rows = texts_of(config, [5] * 27, seed=1)
    many = followed(model, rows, 4)
    for number in (1, 2, 3, 5, 14):
        assert torch.equal(many[:, :number], followed(model, rows[:number], 4))
    # Of more threads than a product has panels, some have nothing to do. One text is read several
    # panels at a time, by few threads.
    for several in (1, 2, 3, 7):
        decoder = NativeDecoder(model, several)
        reader = TextReader(model)
        with torch.inference_mode():
            reader.read([rows[0][0][:5]])
            assert torch.equal(decoder.feed([rows[0][0][5]], reader.cache)[0], many[0, 0])
    try:
        for several in (1, 2, 3, 7):
            torch.set_num_threads(several)
            assert torch.equal(followed(model, rows, 4), many)
    finally:
        torch.set_num_threads(threads)


def test_a_prompt_gives_the_bits_that_its_tokens_give_one_by_one():
    model, text = built(TINY), [n * 5 % TINY.vocab_size for n in range(CONTEXT)]
    whole, single = TextReader(model), TextReader(model)
    with torch.inference_mode():
        expected = whole.read([text])
        single.read([text[:1]])
        for token in text[1:]:
            found = single.feed([token])
    assert torch.equal(found, expected)
    assert torch.equal(whole.cache.store[:, :, 0], single.cache.store[:, :, 0, :, :CONTEXT])


def test_weights_that_were_written_to_are_packed_again():
    model = built(TINY)
    rows = texts_of(TINY, [3, 4], seed=2)
    before = followed(model, rows, 1)
    assert torch.equal(before, followed(model, rows, 1))
    with torch.no_grad():
        model.head.weight.mul_(2.0)
    assert torch.allclose(followed(model, rows, 1), 2 * before, rtol=1e-5)


def test_a_model_that_has_diverged_says_so_in_its_logits():
    model = built(TINY)
    with torch.no_grad():
        model.blocks[0].mlp.down.weight[0, 0] = float("nan")
    assert bool(followed(model, texts_of(TINY, [3, 4], seed=3), 1).isnan().all())
