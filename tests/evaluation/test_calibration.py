import numpy as np
import pytest

from minitx.evaluation.arrays import GroupedSums
from minitx.evaluation.breakdown import BINS, calibration_curve, confidence_bins


def curve(confidence, correct, parts=1):
    counter = GroupedSums(BINS, 2)
    for some, right in zip(
        np.array_split(np.asarray(confidence, np.float32), parts),
        np.array_split(np.asarray(correct, np.bool_), parts),
        strict=True,
    ):
        counter.add(confidence_bins(some), some, right)
    return calibration_curve(counter)


def test_predictions_that_come_true_as_often_as_they_say_have_no_error():
    random = np.random.default_rng(0)
    confidence = random.random(200_000).astype(np.float32)
    found = curve(confidence, random.random(200_000) < confidence, parts=7)
    assert found.expected_calibration_error < 0.005
    assert found.accuracy == pytest.approx(0.5, abs=0.005)
    assert len(found.bins) == BINS
    for one in found.bins:
        assert one.low <= one.confidence <= one.high
        assert one.accuracy == pytest.approx(one.confidence, abs=0.02)


def test_an_overconfident_model():
    # Says 0.9 and is right six times in ten.
    found = curve([0.9] * 10, [True] * 6 + [False] * 4)
    assert found.expected_calibration_error == pytest.approx(0.3)
    (only,) = found.bins
    assert (only.tokens, only.accuracy) == (10, pytest.approx(0.6))


def test_errors_in_opposite_directions_do_not_cancel():
    found = curve([0.25] * 4 + [0.75] * 4, [True] * 2 + [False] * 2 + [True] * 2 + [False] * 2)
    assert found.accuracy == found.confidence == pytest.approx(0.5)
    assert found.expected_calibration_error == pytest.approx(0.25)


def test_certainty_has_a_bin():
    found = curve([1.0, 0.0], [True, False])
    assert [(one.low, one.high) for one in found.bins] == [(0.0, 0.1), (0.9, 1.0)]
    assert found.expected_calibration_error == 0.0
