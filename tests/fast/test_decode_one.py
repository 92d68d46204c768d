"""The kernel that reads one text, in every format, against the model in float64."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_models import built, model_configs

from minitx.config import ModelConfig
from minitx.fast.decode_native import NativeDecoder, PackedWeights
from minitx.fast.decode_weights import weights_of
from minitx.fast.library import library
from minitx.fast.quantized import quantize
from minitx.generation.text_reader import TextReader, window_after_slide
from minitx.model import KVCache, Trace, matrix_parameters

pytestmark = pytest.mark.skipif(library() is None, reason="no kernels were compiled")

CONTEXT = 20
FORMATS = ["float32", "bfloat16", "int8"]


def made(weight_format="float32", seed=0, **changes):
    values = {
        "vocab_size": 17, "context_length": CONTEXT, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2,
        "d_model": 21, "d_ff": 37, "head_dim": 6,
    }  # fmt: skip
    model = built(ModelConfig(**(values | changes)), seed)
    if weight_format != "float32":
        quantize(model, weight_format)
    return model


def fed(model, ids, threads=None):
    """Logits of each token but the first, which is read as a prompt."""
    reader = TextReader(model)
    reader.read([ids[:1]])
    decoder = NativeDecoder(model, threads)
    return torch.stack([decoder.feed([token], reader.cache)[0].clone() for token in ids[1:]])


def recomputed(model, ids):
    return copy.deepcopy(model).double()(torch.tensor([ids]))[0, 1:]


@settings(max_examples=100, deadline=None)
@given(
    config=model_configs(CONTEXT),
    weight_format=st.sampled_from(FORMATS),
    seed=st.integers(0, 2**20),
    numbers=st.lists(st.integers(0, 999), min_size=2, max_size=CONTEXT),
)
@torch.no_grad()
def test_logits_are_the_recomputed_ones_whoever_shares_the_work(
    config, weight_format, seed, numbers
):
    """In every format: where weights are rounded, the model computes with the rounded ones."""
    model = built(config, seed)
    if weight_format != "float32":
        quantize(model, weight_format)
    ids = [number % model.config.vocab_size for number in numbers]
    found, expected = fed(model, ids, threads=1), recomputed(model, ids)
    assert float((found - expected).abs().max()) < 2e-5 * max(1.0, float(expected.abs().max()))
    for threads in (2, 3):
        assert torch.equal(fed(model, ids, threads), found)


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
    weights = sum(matrix.numel() for _, matrix, _ in matrix_parameters(model))
    weights += model.head.weight.numel()
    # With scales, biases, and panels that are not full.
    assert 1.0 <= weights_of(model, PackedWeights).n_bytes / (weights * bits // 8) < 1.2


@torch.no_grad()
def test_after_a_slide_logits_are_those_of_the_newest_window():
    model, text = made(), [5 * n % 17 for n in range(CONTEXT)]
    reader = TextReader(model)
    reader.read([text])
    kept = text[-(window_after_slide(CONTEXT) - 1) :]
    reader.slide(0, kept)
    for token in (1, 2, 3):
        kept = [*kept, token]
        expected = recomputed(model, kept)[-1]
        assert float((reader.feed([token])[0] - expected).abs().max()) < 2e-5


@pytest.mark.parametrize("architecture", ["qwen3", "gpt2"])
@pytest.mark.parametrize("weight", ["embedding", "mlp.down", "attention.qkv"])
@pytest.mark.parametrize("number", [math.inf, -math.inf, math.nan])
@torch.no_grad()
def test_a_model_that_has_diverged_says_so(number, weight, architecture):
    model = made(architecture=architecture, n_kv_heads=4, head_dim=6, d_model=24)
    path = f"blocks.0.{weight}.weight" if "." in weight else f"{weight}.weight"
    model.get_parameter(path)[2, :3] = number
    ids, cache = [1, 3, 2, 2, 4], KVCache(model.config, 1, CONTEXT)
    # With a trace: torch's own kernel of attention drops scores that are NaN.
    expected = torch.cat(
        [model(torch.tensor([[token]]), cache=cache, trace=Trace())[0] for token in ids]
    )[1:]
    assert torch.equal(fed(model, ids).isfinite(), expected.isfinite())


@torch.no_grad()
def test_weights_that_were_written_to_are_read_anew():
    model, ids = made(), [1, 2, 3]
    before = fed(model, ids)
    for parameter in model.parameters():
        parameter.mul_(1.5)
    assert float((fed(model, ids) - recomputed(model, ids)).abs().max()) < 2e-5
    rounded = made("int8")
    quantize(model, "int8")
    assert float((fed(model, ids) - recomputed(model, ids)).abs().max()) < 2e-5
    assert not torch.equal(before, fed(rounded, ids))
