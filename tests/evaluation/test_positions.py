import numpy as np
import pytest

from minitx.evaluation.arrays import GroupedSums
from minitx.evaluation.breakdown import context_use


def add(counter, position, losses):
    counter.add(position, losses, losses.astype(np.float64) ** 2)


def losses_of(context_length, mean_at, windows=400, seed=0, spread=0.5):
    random = np.random.default_rng(seed)
    counter = GroupedSums(context_length, 2)
    position = np.arange(context_length)
    means = np.array([mean_at(p + 1) for p in position])
    for _ in range(windows):
        drawn = means + random.normal(0, spread, context_length)
        add(counter, position, drawn.astype(np.float32))
    return context_use(counter)


@pytest.mark.parametrize("context_length", [1, 2, 3, 5, 8, 12, 64, 100, 127])
def test_buckets_part_the_context(context_length):
    found = losses_of(context_length, lambda seen: 2.0, windows=3)
    assert found.buckets[0].first == 1
    assert found.buckets[-1].last == context_length == found.context_length
    for one, following in zip(found.buckets, found.buckets[1:], strict=False):
        assert following.first == one.last + 1
    assert sum(one.tokens for one in found.buckets) == 3 * context_length


def test_figures_are_those_of_numpy():
    random = np.random.default_rng(1)
    position = random.integers(0, 16, 1000)
    nats = random.random(1000).astype(np.float32)
    counter = GroupedSums(16, 2)
    add(counter, position[:300], nats[:300])
    add(counter, position[300:], nats[300:])
    for bucket in context_use(counter).buckets:
        inside = nats[(position + 1 >= bucket.first) & (position + 1 <= bucket.last)]
        assert bucket.tokens == len(inside)
        assert bucket.loss == pytest.approx(inside.mean(), rel=1e-5)
        assert bucket.standard_error == pytest.approx(inside.std() / len(inside) ** 0.5, rel=1e-4)


def test_how_much_of_the_context_is_used():
    falls_to_16 = losses_of(128, lambda seen: 3.0 - 0.4 * np.log2(min(seen, 16)))
    # Within 9 to 16 it still falls, and the next bucket ends at 32.
    assert falls_to_16.used_length == 32
    falls_to_the_end = losses_of(128, lambda seen: 3.0 - 0.3 * np.log2(seen))
    assert falls_to_the_end.used_length == 128
    never = losses_of(128, lambda seen: 3.0)
    assert never.used_length == 1


def test_a_gain_too_small_to_matter_does_not_count():
    tiny = losses_of(128, lambda seen: 3.0 - 0.001 * np.log2(seen), windows=2000, spread=0.01)
    assert tiny.used_length == 1


def test_windows_that_never_fill_the_context():
    counter = GroupedSums(64, 2)
    add(counter, np.arange(5), np.ones(5, np.float32))
    found = context_use(counter)
    assert [(one.first, one.last) for one in found.buckets] == [(1, 1), (2, 2), (3, 4), (5, 8)]
