"""The hand-written backward passes against numerical gradients and the plain formulas."""

import pytest
import torch
from minitx.model.fast import dropout, norm_and_rotate, rms_norm, swiglu, use_fast
from minitx.model.rotary import rotary_table, rotate
from torch.nn import functional as F

from minitx.config import ModelConfig
from minitx.model import Transformer, attention, mlp, norms


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


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("size", [400_001, 400_002, 400_003, 400_004])
def test_dropout_drops_as_many_as_it_says_wherever_they_stand(probability, size):
    found = dropout(torch.ones(size), probability)
    kept = found[found != 0]
    assert torch.equal(kept, torch.full_like(kept, float(kept[0])))
    assert float(kept[0]) == pytest.approx(1 / (1 - probability), abs=1e-3)
    # The four that come of one draw are as good as any; 5 standard deviations.
    for first in range(4):
        share = float((found[first::4] == 0).double().mean())
        assert abs(share - probability) < 5 * (probability * (1 - probability) / 1e5) ** 0.5


def test_dropped_elements_do_not_depend_on_their_neighbours():
    dropped = (dropout(torch.ones(400_000), 0.3) == 0).double().view(-1, 4) - 0.3
    correlation = dropped.T @ dropped / len(dropped) / (0.3 * 0.7)
    assert (correlation - torch.eye(4)).abs().max() < 5 / len(dropped) ** 0.5
    after = (dropped[1:, 0] * dropped[:-1, 3]).mean() / (0.3 * 0.7)
    assert abs(float(after)) < 5 / len(dropped) ** 0.5


def test_dropout_passes_gradients_where_it_passed_values():
    x = torch.randn(7, 5, 3, dtype=torch.float64).add_(10).requires_grad_()
    found = dropout(x, 0.4)
    found.sum().backward()
    torch.testing.assert_close(found.detach(), x.detach() * x.grad)
    assert 0 < int((x.grad == 0).sum()) < x.numel()


def test_dropout_of_nothing_is_nothing_and_bfloat16_stays():
    x = torch.randn(9, 3)
    assert torch.equal(dropout(x, 0.0), x)
    assert dropout(x.bfloat16(), 0.2).dtype == torch.bfloat16
    assert dropout(torch.empty(0, 4), 0.2).shape == (0, 4)
