"""ONNX files: what onnxruntime computes from them, and what is refused."""

import numpy as np
import pytest
import torch
from random_models import built

from minitx.checkpoint.onnx_graph import write_onnx
from minitx.config import ModelConfig
from minitx.model import Transformer

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

SHAPES = {
    "qwen3": {"n_kv_heads": 2, "head_dim": 6, "d_model": 20, "tie_embeddings": False},
    "gpt2": {"n_kv_heads": 4, "head_dim": 5, "d_model": 20, "architecture": "gpt2"},
}


def small(architecture="qwen3"):
    return built(
        ModelConfig(
            vocab_size=31, context_length=24, n_layers=2, n_heads=4, d_ff=33, **SHAPES[architecture]
        )
    )


@pytest.mark.parametrize("architecture", SHAPES)
def test_logits_are_ours_for_any_batch_and_length(tmp_path, architecture):
    model = small(architecture)
    write_onnx(tmp_path / "a.onnx", model)
    assert [path.name for path in tmp_path.iterdir()] == ["a.onnx"]
    session = onnxruntime.InferenceSession(tmp_path / "a.onnx", providers=["CPUExecutionProvider"])
    (takes,), (gives,) = session.get_inputs(), session.get_outputs()
    assert (takes.name, takes.shape, gives.name) == ("input_ids", ["batch", "length"], "logits")
    for batch, length in ((1, 1), (1, 24), (5, 2), (2, 17)):
        ids = torch.randint(31, (batch, length))
        (logits,) = session.run(None, {"input_ids": ids.numpy()})
        # Against the model in float64: no rounding of ours is in it.
        with torch.no_grad():
            wanted = small(architecture).double()(ids).numpy()
        np.testing.assert_allclose(logits, wanted, atol=1e-5, rtol=1e-5)


def test_a_context_of_one(tmp_path):
    config = ModelConfig(
        vocab_size=31, context_length=1, n_layers=1, n_heads=4, d_ff=33, **SHAPES["qwen3"]
    )
    write_onnx(tmp_path / "a.onnx", built(config))
    assert (tmp_path / "a.onnx").is_file()


def test_what_computes_something_else_is_not_written(tmp_path, monkeypatch):
    model = small()
    forward = Transformer.forward

    def leaks(self, ids, *args, **kwargs):
        return forward(self, ids, *args, **kwargs) + (0.01 if kwargs else 0.0)

    monkeypatch.setattr(Transformer, "forward", leaks)
    with pytest.raises(OSError, match="other logits"):
        write_onnx(tmp_path / "a.onnx", model)
    assert not list(tmp_path.iterdir())


def test_the_command(minitx, tiny_gpt2_run, inside):
    done = minitx("export", tiny_gpt2_run, "--onnx", "tiny.onnx")
    assert (done.code, done.out) == (0, "")
    assert done.err.startswith("Wrote tiny.onnx\nrun ")
    assert [path.name for path in inside.iterdir()] == ["tiny.onnx"]
    again = minitx("export", tiny_gpt2_run, "--onnx", "tiny.onnx")
    assert (again.code, again.err) == (
        2, "error: tiny.onnx exists. Remove it, or name another file\n",
    )  # fmt: skip


def test_without_the_packages(minitx, tiny_run, inside, monkeypatch):
    monkeypatch.setattr("minitx.checkpoint.onnx_graph._PACKAGES", ("onnx", "no_such_package"))
    done = minitx("export", tiny_run, "--onnx", "tiny.onnx")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert 'need no_such_package. Install the extra: pip install "minitx[onnx]"' in done.err
