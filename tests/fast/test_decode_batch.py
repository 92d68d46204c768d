"""The kernel that reads several texts against the plain model."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_models import built, model_configs

from minitx.config import ModelConfig
from minitx.fast.library import library
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
    config=model_configs(CONTEXT),
    lengths=st.lists(st.integers(1, CONTEXT - 3), min_size=2, max_size=30),
    seed=st.integers(0, 2**20),
)
def test_logits_are_those_of_the_whole_text_in_double_precision(config, lengths, seed):
    model = built(config, seed)
    rows = texts_of(config, lengths, seed)
    found = followed(model, rows, 3)
    with torch.inference_mode():
        exact = copy.deepcopy(model).double()(torch.tensor([text for text, _ in rows]))
    for n, logits in enumerate(found):
        expected = torch.stack([exact[row, size + n] for row, (_, size) in enumerate(rows)])
        assert float((logits - expected).abs().max()) < 2e-5 * max(1.0, float(exact.abs().max()))


@pytest.mark.parametrize("architecture", ["qwen3", "gpt2"])
def test_a_row_has_the_same_bits_beside_any_rows_and_on_any_number_of_threads(architecture):
    config = ModelConfig(
        vocab_size=50, context_length=CONTEXT, n_layers=2, n_heads=4, n_kv_heads=4, head_dim=16,
        d_model=64, d_ff=96, architecture=architecture,
    )  # fmt: skip
    model, threads = built(config), torch.get_num_threads()
    rows = texts_of(config, [5] * 27, seed=1)
    try:
        torch.set_num_threads(1)
        one = followed(model, rows, 4)
        # Of more threads than a product has panels, some have nothing to do.
        for several in (2, 3, 7):
            torch.set_num_threads(several)
            assert torch.equal(followed(model, rows, 4), one)
    finally:
        torch.set_num_threads(threads)
    readers = [TextReader(model), TextReader(model)]
    with torch.inference_mode():
        # Prompts are read by other kernels, so the same reading stands behind both.
        for reader, of in zip(readers, (rows, rows[:2]), strict=True):
            reader.read([[1, 2, 3]] * len(of))
        for n in range(6):
            many, few = (
                reader.feed([text[n] for text, _ in of])
                for reader, of in zip(readers, (rows, rows[:2]), strict=True)
            )
            assert torch.equal(many[:2], few)


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
