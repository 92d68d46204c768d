import numpy as np
import pytest

from minitx.evaluation.comparison import FEWEST_BLOCKS, Blocks, bootstrap_interval, compare


def blocks(nats, n_bytes=None, number=None):
    nats = np.asarray(nats, dtype=np.float64)
    sizes = np.full(len(nats), 100.0) if n_bytes is None else np.asarray(n_bytes, np.float64)
    number = np.arange(len(nats)) if number is None else np.asarray(number)
    return Blocks(nats, sizes, sizes, number)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    random = np.random.default_rng(0)
    covered = 0
    for trial in range(300):
        weights = random.integers(50, 150, 60).astype(float)
        totals = random.normal(2.0, 0.5, 60) * weights
        interval = bootstrap_interval(totals, weights, seed=trial)
        covered += interval.low <= 2.0 <= interval.high
    # 95 % of 300 is 285; the percentile bootstrap is a little narrow with 60 blocks.
    assert 272 <= covered <= 295


def test_the_interval_narrows_with_the_root_of_the_blocks_and_holds_the_mean():
    random = np.random.default_rng(1)
    widths = []
    for n in (50, 800):
        totals = random.normal(2.0, 0.5, n)
        interval = bootstrap_interval(totals, np.ones(n))
        assert interval.low < totals.mean() < interval.high
        widths.append(interval.high - interval.low)
    assert widths[0] / widths[1] == pytest.approx(4.0, rel=0.3)


def test_it_is_the_same_each_time_and_not_made_up_from_a_few():
    totals = np.random.default_rng(2).random(20)
    assert bootstrap_interval(totals, np.ones(20)) == bootstrap_interval(totals, np.ones(20))
    assert bootstrap_interval(totals[: FEWEST_BLOCKS - 1], np.ones(FEWEST_BLOCKS - 1)) is None


def test_equal_models_are_called_different_in_one_case_of_twenty():
    random = np.random.default_rng(3)
    called = 0
    for trial in range(200):
        hard = random.normal(150, 40, 60)
        one = blocks(hard + random.normal(0, 5, 60))
        other = blocks(hard + random.normal(0, 5, 60))
        called += compare(one, other, seed=trial).is_significant
    assert 2 <= called <= 20


def test_pairing_finds_a_small_difference_that_the_intervals_would_hide():
    random = np.random.default_rng(4)
    hard = random.normal(150, 40, 60)
    better, worse = blocks(hard - 2 + random.normal(0, 2, 60)), blocks(hard)
    found = compare(better, worse)
    assert found.is_significant
    assert found.p_value < 0.001
    assert found.difference == pytest.approx(-2 / np.log(2) / 100, rel=0.3)
    assert found.interval.low < found.difference < found.interval.high < 0
    single = bootstrap_interval(better.nats, better.tokens)
    other = bootstrap_interval(worse.nats, worse.tokens)
    assert single.high > other.low
    turned = compare(worse, better)
    assert turned.difference == pytest.approx(-found.difference)
    assert turned.p_value == pytest.approx(found.p_value, abs=0.01)


def test_a_model_against_itself():
    one = blocks(np.random.default_rng(5).normal(150, 40, 30))
    found = compare(one, one)
    assert (found.difference, found.p_value) == (0.0, 1.0)
    assert not found.is_significant


def test_only_blocks_that_both_have_count():
    one = blocks([1.0, 2.0, 30.0], number=[0, 1, 2])
    other = blocks([10.0, 2.0, 4.0], number=[1, 2, 3])
    found = compare(one, other)
    assert found.n_blocks == 2
    assert found.difference == pytest.approx((2 - 10 + 30 - 2) / np.log(2) / 200)
    assert found.p_value is None
    assert found.interval is None
    assert not found.is_significant
