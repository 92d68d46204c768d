"""Whether the model knows what it does not know: confidence against how often it is right.

Predictions are sorted into bins by the probability of the likeliest token. In a calibrated model,
of those made with 70 % about 70 % come true. The expected calibration error is the mean distance
of the two, weighted by how many predictions a bin has (Guo et al. 2017, section 2).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from minitx.evaluation.arrays import BoolArray, Float32Array, GroupedSums

BINS = 10


@dataclass(frozen=True)
class ReliabilityBin:
    """Predictions with confidence between `low` and `high`: their mean, and how many came true."""

    low: float
    high: float
    tokens: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class CalibrationCurve:
    """The reliability curve and its summary.

    Attributes:
        accuracy: how often the likeliest token is the target.
        confidence: mean probability of the likeliest token.
        expected_calibration_error: mean distance between the two over the bins.
        bins: by rising confidence; empty ones are left out.
    """

    accuracy: float
    confidence: float
    expected_calibration_error: float
    bins: tuple[ReliabilityBin, ...]


class Calibration:
    """Counts predictions as they stream by."""

    def __init__(self) -> None:
        self._bins = GroupedSums(BINS, 2)

    def add(self, confidence: Float32Array, correct: BoolArray) -> None:
        """Add predictions: `(n,)` probability of the likeliest token, and whether it was right."""
        number = np.minimum((confidence.astype(np.float64) * BINS).astype(np.int64), BINS - 1)
        self._bins.add(number, confidence, correct)

    def result(self) -> CalibrationCurve:
        """The curve of all predictions so far."""
        tokens, (confidence, correct) = self._bins.counts, self._bins.sums
        n = max(1.0, float(tokens.sum()))
        bins = tuple(
            ReliabilityBin(
                low=i / BINS,
                high=(i + 1) / BINS,
                tokens=int(tokens[i]),
                confidence=float(confidence[i] / tokens[i]),
                accuracy=float(correct[i] / tokens[i]),
            )
            for i in np.flatnonzero(tokens).tolist()
        )
        return CalibrationCurve(
            accuracy=float(correct.sum() / n),
            confidence=float(confidence.sum() / n),
            expected_calibration_error=float(np.abs(correct - confidence).sum() / n),
            bins=bins,
        )
