"""The compiled pass over several rows against the plain model."""

import copy
import ctypes

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minitx.config import ModelConfig
from minitx.fast.library import KERNELS, library
from minitx.generation import batch_pass
from minitx.generation.batch_pass import BatchPass, fits_batch_pass
from minitx.generation.decoder import Decoder
from minitx.model import Transformer

CONTEXT = 24

TINY = ModelConfig(
    vocab_size=9, context_length=CONTEXT, n_layers=1, n_heads=2, n_kv_heads=2, head_dim=4,
    d_model=8, d_ff=12, tie_embeddings=False,
)  # fmt: skip

compiled = pytest.mark.skipif(library() is None, reason="no kernels were compiled")


@st.composite
def shapes(draw):
    gpt2 = draw(st.booleans())
    heads = draw(st.sampled_from([1, 2, 3, 6]))
    kv = heads if gpt2 else draw(st.sampled_from([n for n in (1, 2, 3, 6) if heads % n == 0]))
    # Heads of whole vectors and others, for processors with vectors of 4, 8 and 16.
    head_dim = draw(st.sampled_from([2, 4, 6, 8, 16, 32, 48, 64, 128]))
    return ModelConfig(
        vocab_size=draw(st.sampled_from([3, 32, 71])), context_length=CONTEXT,
        n_layers=draw(st.integers(1, 3)), n_heads=heads, n_kv_heads=kv, head_dim=head_dim,
        d_ff=draw(st.sampled_from([5, 64, 100])),
        d_model=heads * head_dim if gpt2 else draw(st.sampled_from([6, 32, 80])),
        architecture="gpt2" if gpt2 else "qwen3", tie_embeddings=draw(st.booleans()),
    )  # fmt: skip


def families():
    """The libraries that this processor can run, by what they were compiled for."""
    capability = torch.backends.cpu.get_cpu_capability()
    below = {"AVX512": ["avx512", "avx2", "plain"], "AVX2": ["avx2", "plain"]}
    return below.get(capability, ["plain"])


def built(config, seed=0):
    torch.manual_seed(seed)
    model = Transformer(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * (0.1 if parameter.dim() == 2 else 0.4))
    return model


def texts_of(config, lengths, seed):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(config.vocab_size, (len(lengths), CONTEXT), generator=generator).tolist()
    return [(row, size) for row, size in zip(ids, lengths, strict=True)]


@torch.inference_mode()
def followed(model, rows, steps):
    """Logits of each step, `(steps, rows, vocab)`, after prompts of unequal lengths."""
    decoder = Decoder(model)
    decoder.read([text[:size] for text, size in rows])
    return torch.stack(
        [decoder.feed([text[size + n] for text, size in rows]).clone() for n in range(steps)]
    )


@compiled
@settings(max_examples=50, deadline=None)
@given(
    family=st.sampled_from(families()),
    config=shapes(),
    lengths=st.lists(st.integers(1, CONTEXT - 3), min_size=2, max_size=30),
    seed=st.integers(0, 2**20),
)
def test_logits_are_those_of_the_whole_text_in_double_precision(family, config, lengths, seed):
    model = built(config, seed)
    assert fits_batch_pass(model)
    rows = texts_of(config, lengths, seed)
    kernels = ctypes.CDLL(str(KERNELS / f"kernels_{family}.so"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batch_pass, "library", lambda: kernels)
        found = followed(model, rows, 3)
    with torch.inference_mode():
        exact = copy.deepcopy(model).double()(torch.tensor([text for text, _ in rows]))
    for n, logits in enumerate(found):
        expected = torch.stack([exact[row, size + n] for row, (_, size) in enumerate(rows)])
        assert float((logits - expected).abs().max()) < 2e-5 * max(1.0, float(exact.abs().max()))


@compiled
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
    cache = [Decoder(model), Decoder(model)]
    with torch.inference_mode():
        # Prompts are read by other kernels, so the same reading stands behind both.
        for decoder, of in zip(cache, (rows, rows[:2]), strict=True):
            decoder.read([[1, 2, 3]] * len(of))
        for n in range(6):
            many, few = (
                decoder.feed([text[n] for text, _ in of])
                for decoder, of in zip(cache, (rows, rows[:2]), strict=True)
            )
            assert torch.equal(many[:2], few)


@pytest.mark.parametrize("rows", [1, 3, 40])
def test_the_cache_begins_with_a_line_of_the_processor_however_it_grows(rows):
    decoder = Decoder(built(TINY))
    with torch.inference_mode():
        decoder.read([[1, 2]] * rows)
        for size in (3, CONTEXT):
            decoder.cache.reserve(size)
            assert decoder.cache.store.data_ptr() % 64 == 0


@compiled
def test_weights_that_were_written_to_are_packed_again():
    model = built(TINY)
    rows = texts_of(TINY, [3, 4], seed=2)
    before = followed(model, rows, 1)
    assert torch.equal(before, followed(model, rows, 1))
    with torch.no_grad():
        model.head.weight.mul_(2.0)
    assert torch.allclose(followed(model, rows, 1), 2 * before, rtol=1e-5)


@compiled
def test_a_model_that_has_diverged_says_so_in_its_logits():
    model = built(TINY)
    with torch.no_grad():
        model.blocks[0].mlp.down.weight[0, 0] = float("nan")
    assert bool(followed(model, texts_of(TINY, [3, 4], seed=3), 1).isnan().all())


@compiled
def test_which_models_are_read_this_way(monkeypatch):
    model = built(TINY)
    rows = texts_of(TINY, [3, 4], seed=4)
    calls = []
    feed = BatchPass.feed
    monkeypatch.setattr(BatchPass, "feed", lambda *given: calls.append(1) or feed(*given))
    fast = followed(model, rows, 2)
    assert len(calls) == 2
    monkeypatch.setattr(batch_pass, "library", lambda: None)
    plain = followed(model, rows, 2)
    assert len(calls) == 2
    torch.testing.assert_close(fast, plain)
    monkeypatch.undo()
    assert not fits_batch_pass(built(TINY).double())
    model.ablated_heads.add((0, 1))
    assert not fits_batch_pass(model)
