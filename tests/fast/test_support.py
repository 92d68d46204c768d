"""The one whitelist: what a config builds is known, and whatever was changed is named."""

import dataclasses
import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import GPT2, SHAPE, WindowedAttention, configs
from torch import nn
from torch.nn.modules import module as torch_module
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from minitx.fast import decoder, support
from minitx.fast.library import library
from minitx.model import Transformer, transformer
from minitx.model.transformer import GELUMLP, Attention, Block, LayerNorm, RMSNorm, SwiGLU


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"architecture": "llama"}, "no kernel knows the family llama"),
        ({"architecture": "qwen2"}, "no kernel knows the family qwen2"),
        ({"rope_scaling": (2.0,)}, "no kernel knows scaled rotary frequencies"),
    ],
)
def test_models_from_elsewhere_run_plain(change, reason):
    model = Transformer(dataclasses.replace(SHAPE, **change)).eval()
    assert support.reason_against(model) == reason
    assert decoder(model) is None


@settings(max_examples=40, deadline=None)
@given(configs(), st.booleans(), st.sampled_from([torch.float32, torch.float64]))
def test_what_a_config_builds_is_known(config, training, dtype):
    model = Transformer(config).train(training).to(dtype)
    assert support.reason_against(model) is None


def test_what_training_does_to_a_model_leaves_it_known():
    model = Transformer(SHAPE)
    model.blocks[0].requires_grad_(False)
    model.loss(*torch.zeros(2, 3, 5, dtype=torch.int64)).backward()
    assert support.reason_against(model) is None
    model.load_state_dict(Transformer(SHAPE).state_dict())
    assert support.reason_against(model.eval()) is None


@pytest.mark.skipif(library() is None, reason="no compiled kernels here")
def test_kernels_want_float32_on_the_cpu():
    assert support.reason_against_kernels(Transformer(SHAPE)) is None
    assert "float64" in support.reason_against_kernels(Transformer(SHAPE).double())
    with torch.device("meta"):
        nowhere = Transformer(SHAPE)
    assert "meta" in support.reason_against_kernels(nowhere)
    wide = dataclasses.replace(SHAPE, d_ff=support.LONGEST_ROW, n_layers=1)
    assert "row" in support.reason_against_kernels(Transformer(wide))


# Changed classes


class Renamed(Transformer):
    pass


def test_a_subclass_of_the_model():
    assert support.reason_against(Renamed(SHAPE)) == "the model is a Renamed"
    assert support.reason_against(nn.Linear(2, 2)) == "the model is a Linear"


def test_an_attention_that_sees_eight_tokens():
    model = Transformer(SHAPE)
    model.blocks[1].attention = WindowedAttention(SHAPE, 1)
    assert support.reason_against(model) == "blocks.1.attention is a WindowedAttention"


@pytest.mark.parametrize("config", [SHAPE, GPT2], ids=["qwen3", "gpt2"])
def test_a_subclass_of_each_part(config):
    for name, part in Transformer(config).named_modules():
        if name:
            model = Transformer(config)
            changed = model.get_submodule(name)
            changed.__class__ = type("Changed", (type(part),), {})
            assert support.reason_against(model) == f"{name} is a Changed"


@pytest.mark.parametrize("name", ["Attention", "RMSNorm", "SwiGLU", "Block"])
def test_a_class_put_in_the_place_of_another(monkeypatch, name):
    original = getattr(transformer, name)
    monkeypatch.setattr(transformer, name, type(name, (original,), {}))
    support._expected.cache_clear()
    try:
        assert support.reason_against(Transformer(SHAPE)) == f"transformer.{name} was changed"
    finally:
        support._expected.cache_clear()


# Patched functions


def wrapped(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return function(*args, **kwargs)

    return wrapper


PATCHES = [
    lambda function: lambda *args, **kwargs: function(*args, **kwargs),
    wrapped,
    functools.partial,
    lambda function: mock.Mock(side_effect=function),
]


@pytest.mark.parametrize("patch", PATCHES, ids=["lambda", "wraps", "partial", "mock"])
@pytest.mark.parametrize("name", ["causal_mask", "eager_attention", "rotary_table", "rotate"])
def test_a_patched_function_of_the_model(monkeypatch, patch, name):
    model = Transformer(SHAPE)
    monkeypatch.setattr(transformer, name, patch(getattr(transformer, name)))
    assert support.reason_against(model) == f"transformer.{name} was changed"
    monkeypatch.undo()
    assert support.reason_against(model) is None


@pytest.mark.parametrize("patch", PATCHES, ids=["lambda", "wraps", "partial", "mock"])
@pytest.mark.parametrize(
    ("kind", "name"),
    [(kind, "forward") for kind in
     (Transformer, Block, Attention, RMSNorm, LayerNorm, SwiGLU, GELUMLP, nn.Linear, nn.Embedding)]
    + [(Transformer, name) for name in ("loss", "residual_stream", "unembed", "new_pass")]
    + [(nn.Module, "__call__"), (Attention, "__init__")],
)  # fmt: skip
def test_a_patched_method_of_a_class(monkeypatch, patch, kind, name):
    model = Transformer(SHAPE)
    monkeypatch.setattr(kind, name, patch(getattr(kind, name)))
    reason = support.reason_against(model)
    monkeypatch.undo()
    assert reason == f"{kind.__name__}.{name} was changed"
    assert support.reason_against(model) is None


def test_a_method_added_to_a_class(monkeypatch):
    model = Transformer(SHAPE)
    assert support.reason_against(model) is None
    monkeypatch.setattr(Attention, "__call__", lambda self, x, shared: x, raising=False)
    assert support.reason_against(model) == "Attention.__call__ was changed"


def test_a_method_patched_by_mock():
    model = Transformer(SHAPE)
    with mock.patch.object(SwiGLU, "forward"):
        assert support.reason_against(model) == "SwiGLU.forward was changed"
    with mock.patch.object(model.blocks[0].mlp, "forward"):
        assert (
            support.reason_against(model)
            == "forward of blocks.0.mlp was replaced, added or removed"
        )
    with mock.patch("minitx.model.transformer.causal_mask"):
        assert support.reason_against(model) == "transformer.causal_mask was changed"
    assert support.reason_against(model) is None


@pytest.mark.parametrize("name", ["", "blocks.1", "blocks.0.attention", "norm", "head"])
def test_a_method_patched_on_an_instance(name):
    model = Transformer(SHAPE)
    part = model.get_submodule(name)
    part.forward = part.forward
    reason = support.reason_against(model)
    assert reason == f"forward of {name or 'the model'} was replaced, added or removed"


@pytest.mark.parametrize("name", ["scaled_dot_product_attention", "rms_norm", "silu", "linear"])
def test_a_patched_function_of_torch(monkeypatch, name):
    original = getattr(nn.functional, name)
    monkeypatch.setattr(nn.functional, name, lambda *args, **kwargs: original(*args, **kwargs))
    reason = support.reason_against(Transformer(SHAPE))
    assert reason == f"torch.nn.functional.{name} was changed"


EARLY = """
import torch
from minitx.model import transformer
from minitx.config import ModelConfig
{patch}
from minitx.fast import decoder, support
model = transformer.Transformer(ModelConfig(vocab_size=9, context_length=8, n_layers=1, n_heads=2,
                                n_kv_heads=2, d_model=8, d_ff=8, head_dim=4))
print(support.reason_against(model))
"""


@pytest.mark.parametrize(
    ("patch", "reason"),
    [
        ("", "None"),
        (
            "sound = transformer.causal_mask\ntransformer.causal_mask = lambda *a: sound(*a)",
            "transformer.causal_mask was changed",
        ),
        (
            "sound = transformer.SwiGLU.forward\n"
            "transformer.SwiGLU.forward = lambda self, x: sound(self, x)",
            "SwiGLU.forward was changed",
        ),
        (
            "transformer.Attention.__call__ = lambda self, x, shared: x",
            "Attention.__call__ was changed",
        ),
        (
            "class Windowed(transformer.Attention): pass\ntransformer.Attention = Windowed",
            "transformer.Windowed was changed",
        ),
    ],
    ids=["nothing", "function", "method", "added", "class"],
)
def test_a_patch_that_was_there_first(patch, reason):
    done = subprocess.run(
        [sys.executable, "-c", EARLY.format(patch=patch)], capture_output=True, text=True
    )
    assert done.stdout.strip() == reason, done.stderr


# Hooks and modes


HOOKS = ["forward_hook", "forward_pre_hook", "full_backward_hook", "full_backward_pre_hook"]


@pytest.mark.parametrize("kind", HOOKS)
@pytest.mark.parametrize("name", ["", "embedding", "blocks", "blocks.1.mlp.down", "head"])
def test_a_hook(kind, name):
    model = Transformer(SHAPE)
    handle = getattr(model.get_submodule(name), f"register_{kind}")(lambda *_: None)
    assert support.reason_against(model) is not None
    handle.remove()
    assert support.reason_against(model) is None


@pytest.mark.parametrize("kind", HOOKS)
def test_a_hook_on_all_modules(kind):
    model = Transformer(SHAPE)
    handle = getattr(torch_module, f"register_module_{kind}")(lambda *_: None)
    assert support.reason_against(model) == "a hook on all modules is registered"
    handle.remove()
    assert support.reason_against(model) is None


def test_a_hook_on_a_parameter():
    model = Transformer(SHAPE)
    handle = model.norm.gain.register_hook(lambda grad: 2 * grad)
    assert support.reason_against(model) == "gain of norm has a hook"
    handle.remove()
    assert support.reason_against(model) is None


class SeesFunctions(TorchFunctionMode):
    def __torch_function__(self, function, types, args=(), kwargs=None):
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("mode", [SeesFunctions, lambda: FlopCounterMode(display=False)])
def test_a_mode_that_sees_each_operation(mode):
    model = Transformer(SHAPE)
    with mode():
        assert "mode of torch" in support.reason_against(model)
    assert support.reason_against(model) is None


# Changed parts


def replace_mlp(model):
    model.blocks[0].mlp = SwiGLU(16, 32)


def other_eps(model):
    model.blocks[1].mlp_norm.eps = 1e-3


def other_dropout(model):
    model.blocks[1].attention.dropout = 0.5


def other_heads(model):
    model.blocks[0].attention.n_heads = 2


def scaled_embedding(model):
    model.embedding.max_norm = 1.0


def weight_norm(model):
    nn.utils.parametrizations.weight_norm(model.blocks[0].attention.qkv)


class Adapter(nn.Module):
    """As peft wraps a layer."""

    def __init__(self, base):
        super().__init__()
        self.base_layer = base
        self.down = nn.Linear(base.in_features, 2, bias=False)
        self.up = nn.Linear(2, base.out_features, bias=False)

    def forward(self, x):
        return self.base_layer(x) + self.up(self.down(x))


def adapted(model):
    model.blocks[1].mlp.down = Adapter(model.blocks[1].mlp.down)


def no_norm(model):
    model.blocks[0].attention.query_norm = None


def identity(model):
    model.norm = nn.Identity()


def buffer(model):
    model.blocks[0].register_buffer("steps", torch.zeros(()))


def own_attribute(model):
    model.blocks[0].attention.window = 8


def own_parameter(model):
    model.blocks[0].scale = nn.Parameter(torch.ones(()))


def bias(model):
    model.head.bias = nn.Parameter(torch.zeros(29))


def half(model):
    model.blocks[0].mlp.bfloat16()


def elsewhere(model):
    model.blocks[1].to("meta")


def column_major(model):
    weight = model.blocks[0].mlp.down.weight
    model.blocks[0].mlp.down.weight = nn.Parameter(weight.detach().T.contiguous().T)


class Tagged(nn.Parameter):
    pass


def other_tensor(model):
    model.norm.gain = Tagged(torch.ones(16))


def untied(model):
    model.head.weight = nn.Parameter(model.embedding.weight.detach().clone())


def in_evaluation(model):
    model.blocks[0].eval()


def one_block_more(model):
    model.blocks.append(Block(SHAPE, 2))


def one_block_less(model):
    del model.blocks[1]


def swapped(model):
    model.blocks[0], model.blocks[1] = model.blocks[1], model.blocks[0]


def removed(model):
    del model.embedding


def compiled(model):
    model.compile()


def other_config(model):
    model.config = dataclasses.replace(SHAPE, rope_theta=500.0, n_layers=3)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (replace_mlp, "out_features of blocks.0.mlp.gate_up is not what its config says"),
        (other_eps, "eps of blocks.1.mlp_norm is not what its config says"),
        (other_dropout, "dropout of blocks.1.attention is not what its config says"),
        (other_heads, "n_heads of blocks.0.attention is not what its config says"),
        (scaled_embedding, "max_norm of embedding is not what its config says"),
        (weight_norm, "blocks.0.attention.qkv is a ParametrizedLinear"),
        (adapted, "blocks.1.mlp.down is a Adapter"),
        (no_norm, "blocks.0.attention.query_norm is a NoneType"),
        (identity, "norm is a Identity"),
        (buffer, "blocks.0 has a buffer"),
        (own_attribute, "window of blocks.0.attention was replaced, added or removed"),
        (own_parameter, "blocks.0 has other parts or weights than its config says"),
        (bias, "bias of head is not there as its config says"),
        (half, "weight of blocks.0.mlp.gate_up has another device or format than the embedding"),
        (elsewhere, "gain of blocks.1.attention_norm has another device or format than the "
                    "embedding"),
        (column_major, "weight of blocks.0.mlp.down is not a plain tensor"),
        (other_tensor, "gain of norm is not a plain tensor"),
        (untied, "its embeddings are not tied as its config says"),
        (in_evaluation, "blocks.0 is not in the mode of the model"),
        (one_block_more, "blocks has other parts or weights than its config says"),
        (one_block_less, "blocks has other parts or weights than its config says"),
        (swapped, "layer of blocks.0.attention is not what its config says"),
        (removed, "its embedding has no weight"),
        (compiled, "_compiled_call_impl of the model was replaced, added or removed"),
        (other_config, "blocks has other parts or weights than its config says"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)  # fmt: skip
def test_a_changed_part(change, reason):
    model = Transformer(SHAPE)
    change(model)
    assert support.reason_against(model) == reason


def test_tied_where_the_config_says_untied():
    model = Transformer(dataclasses.replace(SHAPE, tie_embeddings=False))
    assert support.reason_against(model) is None
    model.head.weight = model.embedding.weight
    assert support.reason_against(model) == "its embeddings are not tied as its config says"


def test_to_ask_draws_nothing_and_compiles_nothing():
    code = (
        "import sys, torch\n"
        "from minitx.config import ModelConfig\n"
        "from minitx.fast import support\n"
        "from minitx.model import Transformer\n"
        "model = Transformer(ModelConfig(vocab_size=9, context_length=8, n_layers=1, n_heads=2,\n"
        "                    n_kv_heads=2, d_model=8, d_ff=8, head_dim=4))\n"
        "before = torch.get_rng_state()\n"
        "assert support.reason_against(model) is None\n"
        "assert torch.equal(torch.get_rng_state(), before)\n"
        "assert 'torch._dynamo' not in sys.modules\n"
        "print('done')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "done\n", done.stderr


def test_the_kernels_were_tested_against_the_model_as_it_is():
    """After an edit of the model: teach the kernels or let them decline, then note its digest."""
    assert support._source_digest() == support.CHECKED_SOURCE, (
        f"set CHECKED_SOURCE in fast/support.py to {support._source_digest()}"
    )


def test_a_mask_edited_in_the_file_is_what_trains(tmp_path):
    """As a reader of the code would do it: a window of 8 tokens, written into the file itself."""
    package = Path(transformer.__file__).parents[1]
    shutil.copytree(package, tmp_path / "minitx")
    source = tmp_path / "minitx/model/transformer.py"
    sound = ".tril(keys - queries)\n"
    assert source.read_text().count(sound) == 1
    window = ".tril(keys - queries).triu(keys - queries - 7)\n"
    source.write_text(source.read_text().replace(sound, window))
    program = """
import torch
from minitx.config import ModelConfig
from minitx import engine, fast
from minitx.compute import Compute
from minitx.model import Trace, Transformer
torch.manual_seed(0)
model = Transformer(ModelConfig(11, 32, 2, 2, 1, 16, 24, 8)).train()
ids = torch.randint(11, (3, 24))
choice = engine.choose_engine(model, Compute(torch.device("cpu"), torch.float32))
trace = Trace()
seen = torch.nn.functional.cross_entropy(
    model(ids, trace=trace).flatten(0, 1), ids.roll(-1, 1).flatten()
)
loss = engine.loss_function(model, Compute(torch.device("cpu"), torch.float32))
trained = loss(ids, ids.roll(-1, 1))
print(choice.engine, "edited" in choice.reason, fast.decoder(model.eval()) is None)
print(bool((trace.attention[0][0, 0].tril(-8) == 0).all()), abs(float(seen - trained)) < 1e-5)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.stdout.split() == ["plain", "True", "True", "True", "True"], done.stderr
