"""What `eval --quantize` says that fewer bits cost, against rounding and scoring by hand."""

import json
import math

import numpy as np
import pytest
import torch

from minitx.checkpoint import load_model
from minitx.checkpoint.rundir import resolve_checkpoint


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
