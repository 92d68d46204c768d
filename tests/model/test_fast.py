"""The hand-written backward passes against numerical gradients and the plain formulas."""

import pytest
import torch
from torch.nn import functional as F

from minitx.config import ModelConfig
from minitx.model import Transformer, attention, mlp, norms
from minitx.model.fast import norm_and_rotate, rms_norm, swiglu, use_fast
from minitx.model.rotary import rotary_table, rotate


def random(*shape, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, requires_grad=True)


def plain_norm_and_rotate(x, gains, cosine, sine, eps):
    normed = F.rms_norm(x, x.shape[-1:], None, eps) * gains
    return rotate(normed, cosine.unsqueeze(-2), sine.unsqueeze(-2))


def plain_swiglu(gate_up):
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def test_gradients_are_the_numerical_ones():
    cosine, sine = rotary_table(6, 5, 100.0, torch.float64)
    x, gain = random(2, 3, 4), random(4)
    assert torch.autograd.gradcheck(lambda x, g: rms_norm(x, g, 1e-2, torch.float64), (x, gain))
    x, gains = random(2, 5, 3, 6), random(3, 6)
    assert torch.autograd.gradcheck(
        lambda x, g: norm_and_rotate(x, g, cosine, sine, 1e-2), (x, gains)
    )
    assert torch.autograd.gradcheck(swiglu, (random(2, 3, 8),))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_results_are_those_of_the_plain_formulas(dtype):
    tolerance = {"atol": 1e-5, "rtol": 1e-5} if dtype == torch.float32 else {}
    cosine, sine = rotary_table(6, 5, 100.0, dtype)
    x = random(2, 5, 3, 6, dtype=dtype)
    gains = torch.rand(3, 6) + 0.5
    torch.testing.assert_close(
        norm_and_rotate(x, gains, cosine, sine, 1e-6),
        plain_norm_and_rotate(x, gains.to(dtype), cosine, sine, 1e-6),
        **(tolerance or {"atol": 0.05, "rtol": 0.02}),
    )
    gate_up = random(2, 5, 8, dtype=dtype)
    torch.testing.assert_close(swiglu(gate_up), plain_swiglu(gate_up), **tolerance)


def test_whole_model_trains_the_same_without_them(monkeypatch):
    config = ModelConfig(
        vocab_size=29, context_length=16, n_layers=2, n_heads=4, n_kv_heads=2, d_model=24, d_ff=40,
        head_dim=6,
    )  # fmt: skip
    model = Transformer(config)
    ids = torch.randint(29, (3, 16))
    found = []
    for fast in (True, False):
        if not fast:
            for module in (norms, mlp, attention):
                monkeypatch.setattr(module, "use_fast", lambda x: False)
        for dtype in (torch.float32, torch.bfloat16):
            model.zero_grad()
            with torch.autocast("cpu", dtype, enabled=dtype == torch.bfloat16):
                loss = model.loss(ids, ids.roll(-1, 1))
            loss.backward()
            found.append([loss.detach(), *(p.grad.clone() for p in model.parameters())])
    single, half, plain_single, plain_half = found
    for a, b in zip(single, plain_single, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
    for a, b, exact in zip(half, plain_half, plain_single, strict=True):
        # No further from the exact gradient than the plain formulas in bfloat16.
        assert (a - exact).norm() <= 1.5 * (b - exact).norm() + 1e-3


def test_used_only_where_gradients_are_taken():
    x = random(2, 3)
    assert use_fast(x)
    assert not use_fast(x.detach())
    with torch.no_grad():
        assert not use_fast(x)
