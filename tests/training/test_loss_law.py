"""A loss foretold from a few runs, where the law is known."""

import math

import numpy as np
import pytest

from minitx.training.loss_law import LossLaw, LossPoint, new_tokens

UNIQUE = 10**9


def known(n, d, floor=0.9, b=0.45):
    return floor + 20 / n**0.35 + 800 / d**b


def points(**law):
    runs = [(8e5, 2.5e5), (8e5, 5e5), (2e5, 5e5), (2e5, 1e6), (2e5, 2e6)]
    return [LossPoint(n, d, known(n, d, **law), UNIQUE) for n, d in runs]


@pytest.mark.parametrize("floor", [0.5, 1.0])
@pytest.mark.parametrize("b", [0.35, 0.45, 0.6])
def test_a_longer_run_of_a_known_law(floor, b):
    forecast = LossLaw(points(floor=floor, b=b), UNIQUE).at(8e5, 4e6)
    loss = known(8e5, 4e6, floor, b)
    assert forecast.loss == pytest.approx(loss, rel=0.02)
    assert forecast.low < loss < forecast.high


def test_what_is_farther_away_is_less_certain():
    law = LossLaw(points(), UNIQUE)
    widths = [law.at(8e5, d) for d in (1e6, 1e8, 1e10)]
    relative = [(f.high - f.low) / f.loss for f in widths]
    assert relative == sorted(relative)
    assert relative[-1] > 2 * relative[0]
    farther = law.at(1e9, 1e6)
    assert (farther.high - farther.low) / farther.loss > relative[0]


def test_more_tokens_and_more_parameters_never_raise_the_loss():
    law = LossLaw(points(), UNIQUE)
    by_tokens = [law.at(8e5, d).loss for d in np.geomspace(1e5, 1e10, 20)]
    assert by_tokens == sorted(by_tokens, reverse=True)
    by_size = [law.at(n, 1e6).loss for n in np.geomspace(1e5, 1e9, 20)]
    assert by_size == sorted(by_size, reverse=True)


def test_the_best_size_grows_with_the_work_and_is_the_best():
    law = LossLaw(points(), 10**13)
    sizes = [law.best_size(c) for c in (1e12, 1e14, 1e16)]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]
    for n in (sizes[1] / 4, sizes[1] * 4):
        assert law.at(n, 1e14 / 6 / n).loss >= law.at(sizes[1], 1e14 / 6 / sizes[1]).loss


def test_what_is_read_again_is_worth_less_and_never_more_than_it_can_be():
    assert new_tokens(500, 1000) == 500
    assert 1900 < new_tokens(2000, 1000) < 2000
    assert new_tokens(10**9, 1000) == pytest.approx(1000 * 16.4)
    worth = [new_tokens(epochs * 1000, 1000) for epochs in range(1, 50)]
    assert worth == sorted(worth)
    assert all(math.isfinite(each) for each in worth)


@pytest.mark.parametrize("memorizing", [0.01, 0.03])
@pytest.mark.parametrize("k", [0.3, 0.6])
def test_a_run_that_memorizes_is_foretold_from_one_on_a_part_of_the_text(memorizing, k):
    def loss(n, d, unique):
        repeats = max(0.0, d / unique - 1)
        return known(n, new_tokens(d, unique)) + memorizing * repeats * (n / unique) ** k

    n, unique = 3.5e5, 5e5
    runs = [(n, 4e5, unique), (n, 4.9e5, unique), (n, 8e5, 2e6), (n, 2e6, 1e7), (n, 4e5, 5e4)]
    points = [LossPoint(n, d, loss(n, d, u), u) for n, d, u in runs]
    wanted = loss(n, 4e6, unique)
    forecast = LossLaw(points, unique).at(n, 4e6)
    assert forecast.low < wanted < forecast.high
    assert forecast.loss == pytest.approx(wanted, rel=0.05)
    # Those that memorized nothing do not tell it.
    blind = LossLaw(points[:-1], unique).at(n, 4e6)
    assert blind.loss < wanted - 0.5 * memorizing * 7 * 0.7**k
