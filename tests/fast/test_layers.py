"""What `layers` computes with torch: dropout, and norm and rotation for attention with dropout."""

import pytest
import torch
from torch.nn import functional as F

from minitx.fast.layers import dropout, norm_and_rotate
from minitx.model.transformer import rotary_table, rotate


def random(*shape, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, requires_grad=True)


def plain_norm_and_rotate(x, gains, cosine, sine, eps):
    normed = F.rms_norm(x, x.shape[-1:], None, eps) * gains
    return rotate(normed, cosine.unsqueeze(-2), sine.unsqueeze(-2))


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def test_gradients_are_the_numerical_ones():
    cosine, sine = rotary_table(torch.arange(5), 6, 100.0, torch.float64)
    x, gains = random(2, 5, 3, 6), random(3, 6)
    assert torch.autograd.gradcheck(
        lambda x, g: norm_and_rotate(x, g, cosine, sine, 1e-2), (x, gains)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_results_are_those_of_the_plain_formulas(dtype):
    tolerance = {"atol": 1e-5, "rtol": 1e-5} if dtype == torch.float32 else {}
    cosine, sine = (table.to(dtype) for table in rotary_table(torch.arange(5), 6, 100.0))
    x = random(2, 5, 3, 6, dtype=dtype)
    gains = torch.rand(3, 6) + 0.5
    torch.testing.assert_close(
        norm_and_rotate(x, gains, cosine, sine, 1e-6),
        plain_norm_and_rotate(x, gains.to(dtype), cosine, sine, 1e-6),
        **(tolerance or {"atol": 0.05, "rtol": 0.02}),
    )


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
