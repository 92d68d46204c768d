"""The kernel that draws against `reshape` and `draw`."""

import math

import pytest
import torch

from minitx.config import SamplingConfig
from minitx.fast.draw import draw_kernel
from minitx.fast.library import library
from minitx.generation.filters import draw, number, reshape, source

pytestmark = pytest.mark.skipif(library() is None, reason="no kernels were compiled")


def random_logits(seed, rows, vocab):
    return torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed)) * 3


@pytest.mark.parametrize(("temperature", "top_k"), [(1.0, None), (0.5, None), (1.0, 4)])
def test_many_draws_of_one_distribution_are_the_same_tokens(temperature, top_k):
    raw = random_logits(11, rows=1, vocab=12) / 3
    numbers = [number(source(4, sample), 7) for sample in range(20_000)]
    drawn = draw_kernel([], 12)(raw.expand(len(numbers), -1), temperature, top_k, numbers)
    shaped = reshape(raw, SamplingConfig(temperature=temperature, top_k=top_k))
    assert drawn == draw(shaped.expand(len(numbers), -1), numbers)


@pytest.mark.parametrize("top_k", [None, 1, 7, 69, 500])
@pytest.mark.parametrize("temperature", [0.0, 0.3, 1.0, 1.7])
def test_draws_are_the_same_tokens(temperature, top_k):
    """Also of rows that lie apart, with ties, and with logits so low that they are never drawn."""
    wide = random_logits(21, rows=40, vocab=80)
    wide[:, 10:30] = wide[:, 10:30].round()
    wide[3, 2:9] = -1e30
    raw, silent = wide[:, :70], [0, 33, 69]
    before = raw.clone()
    numbers = [number(source(5, row), 1) for row in range(40)]
    numbers[0], numbers[1] = 0.0, 1 - 2**-53
    ruled_out = raw.clone()
    ruled_out[:, silent] = -math.inf
    shaped = reshape(ruled_out, SamplingConfig(temperature=temperature, top_k=top_k))
    expected = draw(shaped, numbers)
    kernel = draw_kernel(silent, 70)
    assert kernel(raw, temperature, top_k, numbers) == expected
    assert kernel(raw.t().contiguous().t(), temperature, top_k, numbers) == expected
    assert [kernel(raw[i : i + 1], temperature, top_k, [numbers[i]])[0] for i in (0, 1, 9)] == [
        expected[i] for i in (0, 1, 9)
    ]
    assert torch.equal(raw, before)


@pytest.mark.parametrize("number_like", [math.nan, math.inf])
def test_a_row_without_a_distribution_gets_no_token(number_like):
    raw = random_logits(22, rows=2, vocab=9)
    raw[0, 4] = number_like
    first, second = draw_kernel([], 9)(raw, 1.0, None, [0.5, 0.5])
    assert first == 9
    assert second < 9
