import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minitx.evaluation.breakdown import SurprisingPassages


def brute_force(losses, half, count):
    """Greedily the worst of all passages that begin at a multiple of half their length."""
    starts = range(0, len(losses) - 2 * half + 1, half)
    ranked = sorted(starts, key=lambda s: (-float(losses[s : s + 2 * half].mean()), s))
    chosen = []
    for start in ranked:
        if len(chosen) < count and all(abs(start - other) >= 2 * half for other in chosen):
            chosen.append(start)
    return chosen


@settings(deadline=None, max_examples=60)
@given(
    n=st.integers(1, 400), half=st.integers(1, 8), count=st.integers(1, 10), seed=st.integers(0, 99)
)
def test_the_worst_passages_however_the_text_is_cut(n, half, count, seed):
    random = np.random.default_rng(seed)
    losses = random.exponential(2.0, n).astype(np.float32)
    ids = random.integers(0, 50, n + 1)
    keeper = SurprisingPassages(2 * half, str, count)
    start = 0
    while start < n:
        size = int(random.integers(1, 60))
        part = np.arange(start, min(start + size, n))
        keeper.add(part + 1, ids[part + 1], losses[part])
        start += size
    found = keeper.result()
    assert [one.start - 1 for one in found] == brute_force(losses, half, count)
    for one in found:
        assert list(map(int, one.tokens)) == ids[one.start : one.start + 2 * half].tolist()
        assert one.losses == pytest.approx(losses[one.start - 1 : one.start - 1 + 2 * half])
        assert one.loss == pytest.approx(np.mean(one.losses))


def test_a_passage_never_spans_a_gap():
    keeper = SurprisingPassages(4, str, 10)
    keeper.add(np.arange(1, 7), np.zeros(6, np.int64), np.full(6, 9, np.float32))
    keeper.add(np.arange(101, 105), np.zeros(4, np.int64), np.ones(4, np.float32))
    for one in keeper.result():
        assert len(one.tokens) == 4
        assert one.start in (1, 3, 101)
    assert [one.start for one in keeper.result()] == [1, 101]
