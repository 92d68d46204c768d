import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from minitx.config import SamplingConfig
from minitx.generation.filters import bias_tensor, draw, number, penalize, reshape, source


def random_logits(seed, rows=3, vocab=50):
    return torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed)) * 3


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**30),
    temperature=st.sampled_from([0.3, 0.8, 1.0, 1.7]),
    top_k=st.sampled_from([None, 1, 5, 50]),
    top_p=st.sampled_from([1.0, 0.95, 0.5, 0.05]),
    min_p=st.sampled_from([0.0, 0.02, 0.3]),
    typical_p=st.sampled_from([1.0, 0.9, 0.3]),
    penalty=st.sampled_from([1.0, 1.3, 0.7]),
)
def test_settings_mean_what_they_mean_in_transformers(
    seed, temperature, top_k, top_p, min_p, typical_p, penalty
):
    logits = random_logits(seed)
    text = torch.randint(50, (3, 12), generator=torch.Generator().manual_seed(seed + 1))
    theirs = LogitsProcessorList()
    if penalty != 1.0:
        theirs.append(RepetitionPenaltyLogitsProcessor(penalty))
    if temperature != 1.0:
        theirs.append(TemperatureLogitsWarper(temperature))
    if top_k is not None:
        theirs.append(TopKLogitsWarper(top_k))
    if top_p < 1.0:
        theirs.append(TopPLogitsWarper(top_p))
    if min_p > 0:
        theirs.append(MinPLogitsWarper(min_p))
    if typical_p < 1.0:
        theirs.append(TypicalLogitsWarper(typical_p))
    counts = torch.zeros(3, 50).scatter_add(1, text, torch.ones(3, 12))
    config = SamplingConfig(
        temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, typical_p=typical_p,
        repetition_penalty=penalty,
    )  # fmt: skip
    ours = reshape(penalize(logits, counts, config), config)
    torch.testing.assert_close(ours, theirs(text, logits.clone()))


def test_the_order_matters_and_is_the_documented_one():
    """Temperature before top-p: a flatter distribution keeps more tokens."""
    logits = random_logits(5, rows=1)
    kept = {
        t: int((reshape(logits, SamplingConfig(temperature=t, top_p=0.9)) > -math.inf).sum())
        for t in (0.5, 2.0)
    }
    assert kept[2.0] > kept[0.5]


def test_penalties_count_occurrences():
    logits = torch.zeros(1, 4)
    counts = torch.tensor([[0.0, 1.0, 3.0, 0.0]])
    frequency = SamplingConfig(frequency_penalty=0.5)
    presence = SamplingConfig(presence_penalty=0.5)
    assert penalize(logits, counts, frequency).tolist() == [[0, -0.5, -1.5, 0]]
    assert penalize(logits, counts, presence).tolist() == [[0, -0.5, -0.5, 0]]


def test_bias():
    bias = bias_tensor(SamplingConfig(logit_bias={2: -1.5}), 4, torch.device("cpu"))
    assert bias.tolist() == [0, 0, -1.5, 0]
    assert bias_tensor(SamplingConfig(), 4, torch.device("cpu")) is None


def test_temperature_0_takes_the_first_of_the_likeliest():
    logits = torch.tensor([[0.0, 2.0, 2.0, 1.0]])
    assert (reshape(logits, SamplingConfig(temperature=0)) > -math.inf).tolist() == [
        [False, True, False, False]
    ]


SETTINGS = [
    {"temperature": 1.0},
    {"temperature": 0.5},
    {"temperature": 1.0, "top_k": 4},
    {"temperature": 1.5, "top_p": 0.7},
    {"temperature": 1.0, "min_p": 0.2},
    {"temperature": 1.5, "typical_p": 0.95},
    {"temperature": 0.9, "top_k": 6, "top_p": 0.9, "min_p": 0.05},
]


@pytest.mark.parametrize("values", SETTINGS)
def test_draws_follow_the_distribution(values):
    """Chi-square over 20,000 draws with a fixed seed, against the exact distribution."""
    logits = reshape(random_logits(11, rows=1, vocab=12) / 3, SamplingConfig(**values))
    expected = logits.double().softmax(-1)[0]
    n = 20_000
    numbers = [number(source(3, sample), 7) for sample in range(n)]
    require_follows(draw(logits.expand(n, -1), numbers), expected)


def require_follows(drawn, expected):
    n = len(drawn)
    counts = torch.bincount(torch.tensor(drawn), minlength=12).double()
    possible = expected > 0
    assert counts[~possible].sum() == 0
    # Tokens that are drawn less than ten times are counted as one: the test needs full cells.
    rare = possible & (n * expected < 10)
    full = possible & ~rare
    hits = torch.cat((counts[full], counts[rare].sum()[None]))
    hopes = n * torch.cat((expected[full], expected[rare].sum()[None]))
    hits, hopes = hits[hopes >= 10], hopes[hopes >= 10]
    chi = float(((hits - hopes) ** 2 / hopes).sum())
    freedom = len(hopes) - 1
    assert freedom >= 2
    # Wilson and Hilferty's approximation: the chance of a larger value is about 1 in 1,000.
    limit = freedom * (1 - 2 / (9 * freedom) + 3.09 * math.sqrt(2 / (9 * freedom))) ** 3
    assert chi < limit


def test_numbers_are_uniform_and_independent():
    numbers = torch.tensor(
        [[number(source(9, sample), position) for position in range(60)] for sample in range(60)],
        dtype=torch.float64,
    )
    assert float(numbers.min()) >= 0
    assert float(numbers.max()) < 1
    assert float(numbers.mean()) == pytest.approx(0.5, abs=0.02)
    assert float(numbers.var()) == pytest.approx(1 / 12, abs=0.01)
    flat = numbers.flatten() - 0.5
    for shift in (1, 60):  # next position, next sample
        assert abs(float((flat[:-shift] * flat[shift:]).mean()) * 12) < 0.06
    assert len(set(numbers.flatten().tolist())) == 3600
    assert number(source(1, 2), 3) != number(source(2, 2), 3)


def test_number_at_the_very_end_still_points_at_a_token():
    logits = torch.full((1, 3), -math.inf)
    logits[0, 1] = 0.0
    assert draw(logits, [1 - 2**-53]) == [1]
    assert draw(logits, [0.0]) == [1]


@pytest.mark.parametrize("number_like", [math.nan, math.inf])
def test_a_row_without_a_distribution_gets_no_token(number_like):
    raw = random_logits(22, rows=2, vocab=9)
    raw[0, 4] = number_like
    with np.errstate(invalid="ignore"):
        first, second = draw(raw, [0.5, 0.5])
    assert first == 9
    assert second < 9
