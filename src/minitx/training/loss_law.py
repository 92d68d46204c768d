"""The loss that a run is expected to reach, from a few short ones.

    loss = E + A / N^a + B / D^b + P R (N / U)^k

for N parameters and D tokens (Hoffmann et al. 2022, section 3.3), of a text with U tokens that is
read R times more than once: what a model memorizes adds to the loss of what it has not read, as
Lovelace et al. 2026 find; the form of that term is ours. Few runs do not fix seven numbers. So all
that fit about as well are weighted by how well, and by what is usual for the exponents; the spread
of what they say of another run is its uncertainty.
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

MEMORIZED = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Exponents k, each as likely: 0 if it is no matter how large the model is for its text, 1 if what
is memorized grows in proportion."""

USUAL_P = 0.02
"""How large P is, over the loss: what a text read twice adds to the loss of a model with as many
parameters as it has tokens."""

REPEATED = 15.4
"""Epochs beyond the first that are worth about as much as new text: R* of Muennighoff et al. 2023,
equation 5."""


@dataclass(frozen=True)
class LossPoint:
    """A finished run: its parameters, the tokens that it learned from, its holdout loss, and how
    many tokens its text has."""

    parameters: float
    tokens: float
    loss: float
    unique: float


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
    """Laws that fit some runs of one text or its parts, weighted by how well.

    At least two runs are needed. `unique` are the tokens of the text that is asked about.
    """

    def __init__(self, points: Sequence[LossPoint], unique: float) -> None:
        self.unique = unique
        parameters = np.array([point.parameters for point in points])
        tokens = np.array([new_tokens(point.tokens, point.unique) for point in points])
        repeats = np.array([max(0.0, point.tokens / point.unique - 1.0) for point in points])
        crowded = parameters / np.array([point.unique for point in points])
        losses = np.array([point.loss for point in points])
        floors = np.linspace(0.0, 0.98, 50) * losses.min()
        wanted = 1.0 - floors / losses[:, None]
        laws, weights = [], []
        for a, b, k in itertools.product(
            USUAL_A[0] + USUAL_A[1] * np.linspace(-2, 2, 5),
            USUAL_B[0] * np.exp(np.linspace(-1.4, 1.4, 29)),
            MEMORIZED if repeats.any() else MEMORIZED[:1],
        ):
            columns = np.stack([parameters**-a, tokens**-b, repeats * crowded**k], axis=1)
            columns /= losses[:, None]
            factors, error = _not_negative(columns, wanted)
            usual = ((a - USUAL_A[0]) / USUAL_A[1]) ** 2
            usual += (math.log(b / USUAL_B[0]) / (USUAL_B[1] / USUAL_B[0])) ** 2
            unusual = usual + (factors[2] / losses.min() / USUAL_P) ** 2
            of_each = np.ones_like(floors)
            exponents = [a * of_each, b * of_each, k * of_each]
            laws.append([floors, *factors, *exponents])
            weights.append(-0.5 * (error / NOISE**2 + unusual))
        self._laws = np.concatenate(laws, axis=1).T
        logs = np.concatenate(weights)
        relative = np.exp(logs - logs.max())
        self._weights = relative / relative.sum()

    def _losses(self, parameters: float, tokens: float) -> FloatArray:
        floor, by_size, by_tokens, memorized, a, b, k = self._laws.T
        worth = new_tokens(tokens, self.unique)
        losses: FloatArray = floor + by_size * parameters**-a + by_tokens * worth**-b
        repeats = max(0.0, tokens / self.unique - 1.0)
        losses += memorized * repeats * (parameters / self.unique) ** k
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
    # For columns `(n, m)` and each column of `wanted`, `(n, k)`: the factors of least squares, none
    # below 0, `(m, k)`, and the sum of squares that is left, `(k,)`.
    m = columns.shape[1]
    best, least = np.zeros((m, wanted.shape[1])), (wanted**2).sum(0)
    for used in (list(c) for n in range(m, 0, -1) for c in itertools.combinations(range(m), n)):
        found = np.zeros_like(best)
        found[used] = np.linalg.lstsq(columns[:, used], wanted, rcond=None)[0]
        left = ((columns @ found - wanted) ** 2).sum(0)
        better = (found >= 0).all(0) & (left < least)
        best[:, better], least[better] = found[:, better], left[better]
    return best, least
