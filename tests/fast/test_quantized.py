"""Weights in fewer bits: their rounding, what a model then computes, and what they cost."""

import json
import math

import numpy as np
import pytest
import torch
from random_models import built

from minitx import engine
from minitx.checkpoint import load_model
from minitx.checkpoint.rundir import resolve_checkpoint
from minitx.config import ModelConfig
from minitx.errors import BadInputError
from minitx.fast.decoding import decoder
from minitx.fast.quantized import (
    quantize,
    quantized_matrices,
    round_to_bfloat16,
    round_to_int8,
)
from minitx.generation.text_reader import TextReader
from minitx.workflows.evaluate import EvaluationSettings, compare_checkpoints


def small(**changes):
    values = {
        "vocab_size": 17, "context_length": 20, "n_layers": 2, "n_heads": 2, "n_kv_heads": 1,
        "d_model": 16, "d_ff": 40, "head_dim": 8,
    }  # fmt: skip
    return built(ModelConfig(**(values | changes)), 3)


def test_int8_is_within_half_a_step_and_the_largest_is_127():
    weight = torch.randn(6, 50, generator=torch.Generator().manual_seed(2))
    weight[3] = 0.0
    matrix = round_to_int8(weight)
    assert int(matrix.weights.abs().amax()) == 127
    step = matrix.scale[:, None]
    # The scale is rounded to bfloat16, so the very largest may be cut by half a percent.
    cut = 0.005 * weight.abs().amax(1, keepdim=True)
    assert bool(((matrix.restored - weight).abs() <= 0.5 * step + cut + 1e-9).all())
    assert not bool(matrix.restored[3].any())


@pytest.mark.parametrize("largest", [1.0, 1e6])
def test_bfloat16_rounds_to_nearest(largest):
    weight = torch.randn(48, 50, generator=torch.Generator().manual_seed(4)) * 1e-5
    weight[0, 0] = largest
    assert torch.equal(round_to_bfloat16(weight).restored, weight.bfloat16().float())


@pytest.mark.parametrize("has_kernels", [True, False])
@pytest.mark.parametrize("weight_format", ["bfloat16", "int8"])
@pytest.mark.parametrize("architecture", ["qwen3", "gpt2"])
def test_the_model_and_its_decoder_compute_with_the_rounded_weights(
    weight_format, architecture, has_kernels, monkeypatch
):
    if not has_kernels:
        monkeypatch.setattr("minitx.fast.decoding.library", lambda: None)
    model = small(architecture=architecture, n_kv_heads=1 if architecture == "qwen3" else 2)
    before = model.blocks[0].mlp.down.weight.detach().clone()
    quantize(model, weight_format)
    after = model.blocks[0].mlp.down.weight.detach()
    assert 0 < float((after - before).abs().max()) < 0.02 * float(before.abs().max())
    assert len(quantized_matrices(model)) == 9
    ids = [1, 5, 2, 8, 3, 1]
    assert decoder(model) is not None
    with torch.inference_mode():
        reader = TextReader(model)
        reader.read([ids[:2]])
        logits = torch.stack([reader.feed([token])[0].clone() for token in ids[2:]])
        expected = model(torch.tensor([ids]))[0, 2:]
    assert float((logits - expected).abs().max()) < 2e-5 * float(expected.abs().max())


def test_a_weight_that_was_written_to_since_has_no_small_form():
    model = small()
    quantize(model, "int8")
    with torch.no_grad():
        model.blocks[1].mlp.down.weight.mul_(2.0)
    assert len(quantized_matrices(model)) == 8
    assert "blocks.1.mlp.down.weight" not in quantized_matrices(model)
    assert quantized_matrices(small()) == {}


def test_no_such_format():
    with pytest.raises(BadInputError, match="quantize"):
        quantize(small(), "int3")


def test_without_the_fast_folder_it_is_refused(minitx, tiny_run, monkeypatch):
    monkeypatch.setattr(engine, "fast_room", lambda: None)
    done = minitx("generate", tiny_run, "--prompt", "1", "--quantize", "int8")
    assert done.code == 2
    assert "`fast`" in done.err


def test_generate_in_bfloat16(minitx, tiny_run):
    done = minitx("generate", tiny_run, "--prompt", "1", "--dtype", "bfloat16")
    assert done.code == 0


# What `eval --quantize` says that fewer bits cost, against rounding and scoring by hand


def test_rounding_the_weights_is_measured_beside_the_model(tiny_run):
    settings = EvaluationSettings(quick=True, quantize="bfloat16")
    report = compare_checkpoints([resolve_checkpoint(tiny_run)], None, settings)
    assert report.reports[1].model.checkpoint.endswith("(bfloat16 weights)")
    assert abs(report.tests[0].comparison.difference) < 0.05


def to_bfloat16(values):
    # Round to nearest, ties to even, in the upper 16 bits.
    bits = values.astype(np.float32).view(np.uint32).astype(np.uint64)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16 << 16
    return rounded.astype(np.uint32).view(np.float32)


def to_int8(values):
    scale = to_bfloat16(np.abs(values).max(axis=1, keepdims=True) / 127)
    return np.clip(np.rint(values / scale), -127, 127) * scale


def loss_by_hand(model, ids):
    """Mean over every token but the first, in windows side by side, in double precision."""
    size, losses = model.config.context_length, []
    for start in range(0, len(ids) - 1, size):
        window = torch.tensor([ids[start : start + size + 1]])
        with torch.no_grad():
            scores = model(window[:, :-1])[0].log_softmax(dim=-1)
        losses += [-float(row[token]) for row, token in zip(scores, window[0, 1:], strict=True)]
    return sum(losses) / len(losses)


@pytest.mark.parametrize(
    ("weight_format", "rounding"), [("int8", to_int8), ("bfloat16", to_bfloat16)]
)
def test_cost_of_fewer_bits(minitx, tiny_run, inside, weight_format, rounding):
    text = "12 green bottles hanging on the wall,\nand if one green bottle should fall\n" * 3
    (inside / "text.txt").write_text(text)
    flags = (tiny_run, "text.txt", "--quantize", weight_format)
    [comparison] = json.loads(minitx("eval", *flags, "--dtype", "float32", "--json").out)["reports"]
    as_it_is, rounded = (report["plain"] for report in comparison["reports"])

    loaded = load_model(resolve_checkpoint(tiny_run, "best"), torch.device("cpu"), torch.float64)
    model, ids = loaded.model.eval(), loaded.tokenizer.encode(text).tolist()
    assert as_it_is["loss"] == pytest.approx(loss_by_hand(model, ids), rel=1e-5)
    with torch.no_grad():
        # An embedding that is not the head as well is looked up, not multiplied by.
        for name, weight in model.named_parameters():
            looked_up = name == "embedding.weight" and not model.config.tie_embeddings
            if weight.dim() == 2 and not looked_up:
                weight.copy_(torch.from_numpy(rounding(weight.numpy()).astype(np.float64)))
    expected = loss_by_hand(model, ids)
    assert rounded["loss"] == pytest.approx(expected, rel=1e-5)
    assert rounded["perplexity"] == pytest.approx(math.exp(expected), rel=1e-4)
    assert rounded["loss"] != as_it_is["loss"]

    shown = minitx("eval", *flags).out
    assert f"({weight_format} weights)" in shown
    for plain in (as_it_is, rounded):
        assert f"{plain['perplexity']:.3f}" in shown
