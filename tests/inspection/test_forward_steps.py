"""The steps of a pass: each follows from those before it, by its formula, computed here anew."""

import math

import numpy as np
import pytest
import torch
from random_models import built
from small_models import GPT2, QWEN2, SHAPE
from torch.nn import functional as F

from minitx.inspection.forward_steps import forward_steps, source

IDS = np.array([3, 1, 4, 1, 5, 9, 2])


@pytest.fixture(params=[SHAPE, GPT2, QWEN2], ids=["qwen3", "gpt2", "qwen2"])
def model(request):
    return built(request.param).double()


def norm(module, x):
    if hasattr(module, "bias"):
        centred = x - x.mean(-1, keepdim=True)
        scale = (centred.pow(2).mean(-1, keepdim=True) + module.eps).sqrt()
        return centred / scale * module.gain + module.bias
    return x / (x.pow(2).mean(-1, keepdim=True) + module.eps).sqrt() * module.gain


def turned(x, theta=10_000.0):
    """Pairs as complex numbers, times a power of e for each position."""
    half = x.shape[-1] // 2
    pairs = torch.complex(x[..., :half], x[..., half:])
    speeds = theta ** (-torch.arange(half, dtype=torch.float64) / half)
    angles = torch.arange(x.shape[-2], dtype=torch.float64)[:, None] * speeds
    out = pairs * torch.polar(torch.ones_like(angles), angles)
    return torch.cat((out.real, out.imag), -1)


def test_every_step_follows_from_those_before_it(model):
    config, is_gpt2 = model.config, model.positions is not None
    steps = iter(forward_steps(model, IDS))

    def check(where, name, expected):
        step = next(steps)
        assert (step.where, step.name) == (where, name)
        heads = step.n_heads or 1
        found = torch.stack([step.values(head) for head in range(heads)])
        expected = expected if step.n_heads else expected[None]
        assert tuple(found.shape) == (heads, *step.shape)
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)
        return expected if step.n_heads else expected[0]

    with torch.no_grad():
        check("embedding", "token ids", torch.from_numpy(IDS)[:, None])
        x = check("embedding", "token embedding", model.embedding.weight[IDS])
        if is_gpt2:
            x = check("embedding", "position added", x + model.positions.weight[:7])
        ahead = torch.ones(7, 7, dtype=torch.bool).triu(1)
        for layer, block in enumerate(model.blocks):
            where, attention, mlp = f"block {layer}", block.attention, block.mlp
            n = check(where, "norm", norm(block.attention_norm, x))
            heads = attention.qkv(n).view(7, -1, config.head_dim).transpose(0, 1)
            at = config.n_heads, config.n_heads + config.n_kv_heads
            queries = check(where, "queries", heads[: at[0]])
            keys = check(where, "keys", heads[at[0] : at[1]])
            values = check(where, "values", heads[at[1] :])
            group = config.n_heads // config.n_kv_heads
            if not is_gpt2:
                normed = config.query_key_norm
                if normed:
                    queries = check(where, "norm of queries", norm(attention.query_norm, queries))
                queries = check(where, "rotation of queries", turned(queries))
                if normed:
                    keys = check(where, "norm of keys", norm(attention.key_norm, keys))
                keys = turned(keys).repeat_interleave(group, 0)
                keys = check(where, "rotation of keys", keys)
            values = values.repeat_interleave(group, 0)
            scores = queries @ keys.transpose(1, 2) / math.sqrt(config.head_dim)
            check(where, "scores", scores)
            scores = check(where, "mask", scores.masked_fill(ahead, -math.inf))
            weights = check(where, "softmax", scores.softmax(-1))
            mix = check(where, "mix", weights @ values)
            out = check(where, "output", attention.output(mix.transpose(0, 1).reshape(7, -1)))
            x = check(where, "residual", x + out)
            n = check(where, "norm for the MLP", norm(block.mlp_norm, x))
            if is_gpt2:
                up = check(where, "up", mlp.up(n))
                inner = check(where, "activation", F.gelu(up, approximate="tanh"))
            else:
                both = mlp.gate_up(n)
                gate = check(where, "gate", both[:, : config.d_ff])
                up = check(where, "up", both[:, config.d_ff :])
                inner = check(where, "activation", F.silu(gate) * up)
            out = check(where, "MLP output", mlp.down(inner))
            x = check(where, "second residual", x + out)
        n = check("output", "last norm", norm(model.norm, x))
        logits = check("output", "logits", model.head(n))
        check("output", "softmax", logits.softmax(-1))
    assert next(steps, None) is None


def test_each_step_names_a_line_that_computes_it(model):
    lines = source().splitlines()
    for step in forward_steps(model, IDS):
        assert lines[step.line - 1].strip()
        assert not lines[step.line - 1].strip().startswith(("#", '"""'))
    assert not any(module._forward_hooks for module in model.modules())
