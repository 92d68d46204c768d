"""Roles that show in a head's pattern as a whole: positional heads, and even ones."""

from __future__ import annotations

import numpy as np

from minitx.evaluation.arrays import Float32Array
from minitx.inspection.roles import LayerPatterns, Scores, head_role, late_queries

_SHUFFLE_SEED = 0


@head_role("positional", rank=60, is_specific=False, short_name="positional", column="posit")
def positional(patterns: LayerPatterns) -> Scores | None:
    """Looks where position alone says, whatever the tokens (Voita et al. 2019, section 4.1).

    The pattern of each text is predicted by the mean pattern of the others (leave one out); the
    score is the share of its squared distance from even attention that this predicts, at least 0.
    The control shuffles the weights of each row before the same measurement.
    """
    if patterns.control is None:
        return None
    shuffled = _shuffled_rows(patterns.control)
    return _predicted_share(patterns.control), _predicted_share(shuffled)


@head_role("uniform", rank=70, is_specific=False, short_name="uniform", column="unif")
def uniform(patterns: LayerPatterns) -> Scores | None:
    """Looks everywhere alike: its entropy, over that of even attention.

    The control is that of weights drawn at random, uniform on the simplex, whose mean entropy over
    k tokens is 1/2 + 1/3 + ... + 1/k (Jaynes 1968; a Dirichlet distribution of ones).
    """
    if patterns.text is None:
        return None
    queries = late_queries(patterns.text)
    weights = patterns.text[:, :, queries, :].astype(np.float64)
    entropy = -np.sum(weights * np.log(np.where(weights > 0, weights, 1.0)), axis=-1)
    largest = np.log(queries + 1.0)
    harmonic = np.cumsum(1.0 / np.arange(1, int(queries[-1]) + 2)) - 1.0
    score = np.asarray((entropy / largest).mean(axis=(0, 2)), dtype=np.float32)
    return score, np.full_like(score, (harmonic[queries] / largest).mean())


def _predicted_share(weights: Float32Array) -> Float32Array:
    batch, _, seq, _ = weights.shape
    queries = late_queries(weights)
    rows = weights[:, :, queries, :].astype(np.float64)
    visible = np.arange(seq)[None, :] <= queries[:, None]
    even = np.where(visible, 1.0 / (queries[:, None] + 1.0), 0.0)
    others = (rows.sum(axis=0, keepdims=True) - rows) / (batch - 1)
    missed = ((rows - others) ** 2).sum(axis=(0, 2, 3))
    spread = ((rows - even) ** 2).sum(axis=(0, 2, 3))
    # A head that is even everywhere has no pattern to predict.
    negligible = 1e-6 * batch * len(queries)
    share = np.where(spread > negligible, 1.0 - missed / np.maximum(spread, 1e-30), 0.0)
    return np.asarray(np.clip(share, 0.0, 1.0), dtype=np.float32)


def _shuffled_rows(weights: Float32Array) -> Float32Array:
    """Each row's weights in a random order among the positions it can see."""
    seq = weights.shape[-1]
    keys = np.random.default_rng(_SHUFFLE_SEED).random(weights.shape, dtype=np.float32)
    hidden = np.arange(seq)[None, :] > np.arange(seq)[:, None]
    keys[:, :, hidden] = 2.0
    return np.take_along_axis(weights, np.argsort(keys, axis=-1), axis=-1)
