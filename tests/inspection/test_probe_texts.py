import numpy as np
import pytest

from minitx.inspection.probe_texts import MAX_PERIOD, repeat_probe, text_windows


def test_the_second_half_repeats_the_first_and_the_control_does_not():
    probe = repeat_probe(vocab_size=200, context_length=64, batch=8, seed=3)
    n = probe.period
    assert n == 32
    assert (probe.repeated[:, :n] == probe.repeated[:, n:]).all()
    assert (probe.control[:, :n] == probe.repeated[:, :n]).all()
    # Two independent draws agree at a position once in 200 times.
    assert (probe.control[:, :n] == probe.control[:, n:]).mean() < 0.05


def test_no_token_occurs_twice_within_a_half():
    probe = repeat_probe(vocab_size=65, context_length=256, batch=8, seed=0)
    assert probe.period == MAX_PERIOD
    for row in probe.repeated[:, : probe.period]:
        assert len(set(row.tolist())) == probe.period


@pytest.mark.parametrize(("vocab_size", "period"), [(1, 16), (2, 16), (4, 4), (10, 10), (99, 16)])
def test_a_small_vocabulary_shortens_the_period_or_repeats_tokens(vocab_size, period):
    probe = repeat_probe(vocab_size, context_length=32, batch=4, seed=0)
    assert probe.period == period
    assert probe.repeated.max() < vocab_size


def test_a_context_too_short_has_no_probe():
    assert repeat_probe(100, context_length=7, batch=4, seed=0) is None
    assert repeat_probe(100, context_length=8, batch=4, seed=0) is not None


def test_windows_lie_in_the_text_in_order_and_never_overlap():
    ids = np.arange(1000)
    windows = text_windows(ids, 30, 16)
    assert windows.shape == (16, 30)
    assert (np.diff(windows, axis=1) == 1).all()
    assert windows[0, 0] == 0
    assert windows[-1, -1] == 999
    assert (windows[1:, 0] > windows[:-1, -1]).all()


def test_a_short_text_has_fewer_windows_or_none():
    assert text_windows(np.arange(65), 30, 16).shape == (2, 30)
    assert text_windows(np.arange(29), 30, 16).shape == (0, 30)
