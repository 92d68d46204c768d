"""The compiled pass for one text against the model in float64, over random shapes."""

import copy
import ctypes
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minitx.config import ModelConfig
from minitx.fast.library import KERNELS, library
from minitx.generation import decoder as decoder_module
from minitx.generation import native_row
from minitx.generation.decoder import Decoder, one_row_reader, window_after_slide
from minitx.generation.native_row import NativeRow
from minitx.generation.one_row import OneRow
from minitx.model import KVCache, Transformer
from minitx.model.stored_weights import store_weights

CONTEXT = 20
FORMATS = ["float32", "bfloat16", "int8"]

needs_kernels = pytest.mark.skipif(library() is None, reason="no kernels were compiled")


def made(weight_format="float32", seed=0, **changes):
    values = {
        "vocab_size": 17, "context_length": CONTEXT, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2,
        "d_model": 21, "d_ff": 37, "head_dim": 6,
    }  # fmt: skip
    torch.manual_seed(seed)
    model = Transformer(ModelConfig(**(values | changes))).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    if weight_format != "float32":
        store_weights(model, weight_format)
    return model


@st.composite
def models(draw):
    gpt2 = draw(st.booleans())
    heads = draw(st.sampled_from([1, 2, 3, 4, 6]))
    kv = heads if gpt2 else draw(st.sampled_from([n for n in (1, 2, 3, 6) if heads % n == 0]))
    head_dim = draw(st.sampled_from([2, 6, 10, 16, 32]))
    return made(
        draw(st.sampled_from(FORMATS)),
        draw(st.integers(0, 2**20)),
        vocab_size=draw(st.sampled_from([1, 3, 17, 65])),
        n_layers=draw(st.integers(1, 3)),
        n_heads=heads,
        n_kv_heads=kv,
        head_dim=head_dim,
        d_ff=draw(st.sampled_from([1, 5, 24, 99])),
        d_model=heads * head_dim if gpt2 else draw(st.sampled_from([3, 6, 33, 64])),
        architecture="gpt2" if gpt2 else "qwen3",
        tie_embeddings=draw(st.booleans()),
    )


def fed(model, ids, threads=None):
    """Logits of each token but the first, which is read as a prompt."""
    decoder = Decoder(model)
    decoder.read([ids[:1]])
    row = NativeRow(model, threads)
    return torch.stack([row.feed(token, decoder.cache)[0].clone() for token in ids[1:]])


def recomputed(model, ids):
    return copy.deepcopy(model).double()(torch.tensor([ids]))[0, 1:]


@needs_kernels
@settings(max_examples=100, deadline=None)
@given(model=models(), numbers=st.lists(st.integers(0, 999), min_size=2, max_size=CONTEXT))
@torch.no_grad()
def test_logits_are_the_recomputed_ones_whoever_shares_the_work(model, numbers):
    """In every format: where weights are rounded, the model computes with the rounded ones."""
    ids = [number % model.config.vocab_size for number in numbers]
    found, expected = fed(model, ids, threads=1), recomputed(model, ids)
    assert float((found - expected).abs().max()) < 2e-5 * max(1.0, float(expected.abs().max()))
    for threads in (2, 3):
        assert torch.equal(fed(model, ids, threads), found)


@needs_kernels
@pytest.mark.parametrize("weight_format", FORMATS)
@torch.no_grad()
def test_a_wide_model_is_shared_by_all_threads(weight_format):
    """Whole vectors of every format, a rest behind them, and the number of threads that pay."""
    model = made(
        weight_format, n_layers=1, n_heads=5, n_kv_heads=5, head_dim=64, d_model=321, d_ff=645
    )
    ids = list(range(8))
    found, expected = fed(model, ids), recomputed(model, ids)
    assert float((found - expected).abs().max()) < 2e-5 * float(expected.abs().max())
    assert torch.equal(fed(model, ids, threads=1), found)
    bits = {"float32": 32, "bfloat16": 16, "int8": 8}[weight_format]
    weights = sum(matrix.numel() for _, matrix, _ in model.matrix_parameters())
    weights += model.head.weight.numel()
    assert NativeRow(model).n_bytes == weights * bits // 8


@needs_kernels
@pytest.mark.parametrize("weight_format", FORMATS)
@pytest.mark.parametrize("family", ["avx512", "avx2", "plain"])
@torch.no_grad()
def test_kernels_for_every_processor_that_this_one_can_be(family, weight_format, monkeypatch):
    able = {"AVX512": ["avx512", "avx2", "plain"], "AVX2": ["avx2", "plain"]}
    if family not in able.get(torch.backends.cpu.get_cpu_capability(), ["plain"]):
        pytest.skip(f"this processor has no {family}")
    compiled = ctypes.CDLL(str(KERNELS / f"kernels_{family}.so"))
    monkeypatch.setattr(native_row, "library", lambda: compiled)
    model, ids = made(weight_format, head_dim=10, d_ff=99), [3, 1, 4, 1, 5]
    expected = recomputed(model, ids)
    assert float((fed(model, ids) - expected).abs().max()) < 2e-5 * float(expected.abs().max())


@needs_kernels
@torch.no_grad()
def test_after_a_slide_logits_are_those_of_the_newest_window():
    model, text = made(), [5 * n % 17 for n in range(CONTEXT)]
    decoder = Decoder(model)
    decoder.read([text])
    kept = text[-(window_after_slide(CONTEXT) - 1) :]
    decoder.slide(0, kept)
    for token in (1, 2, 3):
        kept = [*kept, token]
        expected = recomputed(model, kept)[-1]
        assert float((decoder.feed([token])[0] - expected).abs().max()) < 2e-5


@needs_kernels
@pytest.mark.parametrize("architecture", ["qwen3", "gpt2"])
@pytest.mark.parametrize("weight", ["embedding", "mlp.down", "attention.qkv"])
@pytest.mark.parametrize("number", [math.inf, -math.inf, math.nan])
@torch.no_grad()
def test_a_model_that_has_diverged_says_so(number, weight, architecture):
    model = made(architecture=architecture, n_kv_heads=4, head_dim=6, d_model=24)
    path = f"blocks.0.{weight}.weight" if "." in weight else f"{weight}.weight"
    model.get_parameter(path)[2, :3] = number
    # The fused form of torch drops scores that are not numbers.
    model.attention_form = "explicit"
    ids, cache = [1, 3, 2, 2, 4], KVCache(model.config, 1, CONTEXT)
    expected = torch.cat([model(torch.tensor([[token]]), cache=cache)[0] for token in ids])[1:]
    assert torch.equal(fed(model, ids).isfinite(), expected.isfinite())


@needs_kernels
@torch.no_grad()
def test_weights_that_were_written_to_are_read_anew():
    model, ids = made(), [1, 2, 3]
    before = fed(model, ids)
    for parameter in model.parameters():
        parameter.mul_(1.5)
    assert float((fed(model, ids) - recomputed(model, ids)).abs().max()) < 2e-5
    rounded = made("int8")
    store_weights(model, "int8")
    assert float((fed(model, ids) - recomputed(model, ids)).abs().max()) < 2e-5
    assert not torch.equal(before, fed(rounded, ids))


@torch.no_grad()
def test_who_reads_one_row(monkeypatch):
    """The compiled pass if there is one; NumPy's in float64, and where nothing was compiled."""
    assert isinstance(one_row_reader(made().double()), OneRow)
    if library() is not None:
        assert isinstance(one_row_reader(made()), NativeRow)
    monkeypatch.setattr(native_row, "library", lambda: None)
    monkeypatch.setattr(decoder_module, "fits_batch_pass", lambda _: False)
    assert isinstance(one_row_reader(made()), OneRow)
    model, ids = made(), [1, 2, 3, 4]
    decoder = Decoder(model)
    decoder.read([ids[:3]])
    assert float((decoder.feed(ids[3:])[0] - recomputed(model, ids)[-1]).abs().max()) < 2e-5
