"""The loss that a run is expected to reach, from a few short ones.

    loss = E + A / N^a + B / D^b

for N parameters and D tokens (Hoffmann et al. 2022, section 3.3). Few runs do not fix five numbers.
So all that fit about as well are weighted by how well, and by what is usual for the exponents; the
spread of what they say of another run is its uncertainty.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

NOISE = 0.01
"""How far a run's loss lies beside the law, as a part of it: seeds, and what the law leaves out."""

USUAL_A, USUAL_B = (0.35, 0.08), (0.45, 0.2)
"""Exponents and how far they vary: Besiroglu et al. 2024 find 0.35 and 0.37; runs of minutes fall
faster in tokens."""

REPEATED = 15.4
"""Epochs beyond the first that are worth about as much as new text: R* of Muennighoff et al. 2023,
equation 5."""


@dataclass(frozen=True)
class LossPoint:
    """A finished run: its parameters, the tokens that it learned from, and its holdout loss."""

    parameters: float
    tokens: float
    loss: float


@dataclass(frozen=True)
class Forecast:
    """A loss in nats per token, and the middle 80 % of what may come."""

    loss: float
    low: float
    high: float


def new_tokens(tokens: float, unique: float) -> float:
    """What so many tokens of a text are worth that has fewer, in tokens that are all new."""
    repeated = max(0.0, tokens / unique - 1.0)
    return float(min(tokens, unique) + unique * REPEATED * -math.expm1(-repeated / REPEATED))


class LossLaw:
    """Laws that fit some runs of one text, weighted by how well; `unique` are its tokens.

    At least two runs are needed.
    """

    def __init__(self, points: Sequence[LossPoint], unique: float) -> None:
        self.unique = unique
        parameters = np.array([point.parameters for point in points])
        tokens = np.array([new_tokens(point.tokens, unique) for point in points])
        losses = np.array([point.loss for point in points])
        floors = np.linspace(0.0, 0.98, 50) * losses.min()
        wanted = 1.0 - floors / losses[:, None]
        laws, weights = [], []
        for a, b in itertools.product(
            USUAL_A[0] + USUAL_A[1] * np.linspace(-2, 2, 5),
            USUAL_B[0] * np.exp(np.linspace(-1.4, 1.4, 29)),
        ):
            columns = np.stack([parameters**-a, tokens**-b], axis=1) / losses[:, None]
            factors, error = _not_negative(columns, wanted)
            usual = ((a - USUAL_A[0]) / USUAL_A[1]) ** 2
            usual += (math.log(b / USUAL_B[0]) / (USUAL_B[1] / USUAL_B[0])) ** 2
            of_each = np.ones_like(floors)
            laws.append([floors, factors[0], a * of_each, factors[1], b * of_each])
            weights.append(-0.5 * (error / NOISE**2 + usual))
        self._laws = np.concatenate(laws, axis=1).T
        logs = np.concatenate(weights)
        relative = np.exp(logs - logs.max())
        self._weights = relative / relative.sum()

    def _losses(self, parameters: float, tokens: float) -> FloatArray:
        floor, by_size, a, by_tokens, b = self._laws.T
        worth = new_tokens(tokens, self.unique)
        losses: FloatArray = floor + by_size * parameters**-a + by_tokens * worth**-b
        return losses

    def at(self, parameters: float, tokens: float) -> Forecast:
        """The loss of a run of so many parameters on so many tokens."""
        losses = self._losses(parameters, tokens)
        mean = float(self._weights @ losses)
        order = np.argsort(losses)
        below = np.cumsum(self._weights[order])
        low, high = (float(losses[order][np.searchsorted(below, q)]) for q in (0.1, 0.899))
        noise = 1.28 * NOISE * mean
        below_it, above_it = math.hypot(mean - low, noise), math.hypot(high - mean, noise)
        return Forecast(mean, mean - below_it, mean + above_it)

    def best_size(self, operations: float) -> float:
        """Parameters with which the loss is lowest for so many operations, 6 for each and token."""
        sizes = np.geomspace(1e4, 1e12, 97)
        return float(min(sizes, key=lambda n: self.at(n, operations / 6 / n).loss))


def _not_negative(columns: FloatArray, wanted: FloatArray) -> tuple[FloatArray, FloatArray]:
    # For columns `(n, 2)` and each column of `wanted`, `(n, k)`: the two factors of least squares,
    # neither below 0, `(2, k)`, and the sum of squares that is left, `(k,)`.
    best, least = np.zeros((2, wanted.shape[1])), (wanted**2).sum(0)
    for used in ([0, 1], [0], [1]):
        found = np.zeros_like(best)
        found[used] = np.linalg.lstsq(columns[:, used], wanted, rcond=None)[0]
        left = ((columns @ found - wanted) ** 2).sum(0)
        better = (found >= 0).all(0) & (left < least)
        best[:, better], least[better] = found[:, better], left[better]
    return best, least
