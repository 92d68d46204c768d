"""Whether the model knows what it does not know: confidence against how often it is right.

Predictions are sorted into bins by the probability of the likeliest token. In a calibrated model,
of those made with 70 % about 70 % come true. The expected calibration error is the mean distance
of the two, weighted by how many predictions a bin has (Guo et al. 2017, section 2).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from minitx.evaluation.arrays import BoolArray, Float32Array

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
        self._tokens = np.zeros(BINS)
        self._confidence = np.zeros(BINS)
        self._correct = np.zeros(BINS)

    def add(self, confidence: Float32Array, correct: BoolArray) -> None:
        """Add predictions: `(n,)` probability of the likeliest token, and whether it was right."""
        bins = np.minimum((confidence.astype(np.float64) * BINS).astype(np.int64), BINS - 1)
        self._tokens += np.bincount(bins, minlength=BINS)
        self._confidence += np.bincount(bins, confidence.astype(np.float64), BINS)
        self._correct += np.bincount(bins, correct.astype(np.float64), BINS)

    def result(self) -> CalibrationCurve:
        """The curve of all predictions so far."""
        n = max(1.0, float(self._tokens.sum()))
        bins = tuple(
            ReliabilityBin(
                low=i / BINS,
                high=(i + 1) / BINS,
                tokens=int(self._tokens[i]),
                confidence=float(self._confidence[i] / self._tokens[i]),
                accuracy=float(self._correct[i] / self._tokens[i]),
            )
            for i in np.flatnonzero(self._tokens).tolist()
        )
        return CalibrationCurve(
            accuracy=float(self._correct.sum() / n),
            confidence=float(self._confidence.sum() / n),
            expected_calibration_error=float(np.abs(self._correct - self._confidence).sum() / n),
            bins=bins,
        )
