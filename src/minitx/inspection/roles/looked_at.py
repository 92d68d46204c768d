"""Roles that show in where a head looks: at certain positions, or in its pattern as a whole.

The control of those that look at positions of any text is even attention; that of those that show
where random tokens repeat, the same offset without a repetition.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from minitx.evaluation.arrays import Float32Array, IntArray
from minitx.inspection.roles import LayerPatterns, Role, Scores, late_queries, mean_weight

LOCAL_SPAN = 8
_SHUFFLE_SEED = 0


@Role("induction", rank=0, is_specific=True, short_name="induction", column="induct")
def induction(patterns: LayerPatterns) -> Scores | None:
    """Looks at the token that came after the earlier occurrence (Olsson et al. 2022)."""
    return _after_earlier(patterns, 1)


@Role("duplicate token", rank=10, is_specific=True, short_name="duplicate", column="dupl")
def duplicate_token(patterns: LayerPatterns) -> Scores | None:
    """Looks at the earlier occurrence of the same token (Wang et al. 2022, section 3)."""
    return _after_earlier(patterns, 0)


@Role("previous token", rank=20, is_specific=True, short_name="previous", column="prev")
def previous_token(patterns: LayerPatterns) -> Scores | None:
    """Looks at the token before (Elhage et al. 2021)."""
    return _in_any_text(patterns, lambda queries: queries - 1)


@Role("current token", rank=30, is_specific=True, short_name="current", column="curr")
def current_token(patterns: LayerPatterns) -> Scores | None:
    """Looks at the token itself."""
    return _in_any_text(patterns, lambda queries: queries)


@Role("first token", rank=40, is_specific=True, short_name="first", column="first")
def first_token(patterns: LayerPatterns) -> Scores | None:
    """Looks at position 0, an attention sink (Xiao et al. 2023)."""
    return _in_any_text(patterns, np.zeros_like)


@Role("local", rank=50, is_specific=False, short_name="local", column="local")
def local(patterns: LayerPatterns) -> Scores | None:
    """Looks at the last few tokens, itself among them."""
    if patterns.text is None or patterns.text.shape[2] < 4 * LOCAL_SPAN:
        return None
    return _in_any_text(
        patterns, *(lambda queries, back=back: queries - back for back in range(LOCAL_SPAN))
    )


@Role("positional", rank=60, is_specific=False, short_name="positional", column="posit")
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


@Role("uniform", rank=70, is_specific=False, short_name="uniform", column="unif")
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


def _in_any_text(
    patterns: LayerPatterns, *keys_of: Callable[[IntArray], IntArray]
) -> Scores | None:
    # The weight on a key, or on several together, that each function gives for the queries.
    if patterns.text is None:
        return None
    queries = late_queries(patterns.text)
    near = sum(mean_weight(patterns.text, queries, key_of(queries)) for key_of in keys_of)
    score = np.asarray(near, dtype=np.float32)
    return score, np.full_like(score, np.mean(len(keys_of) / (queries + 1.0)))


def _after_earlier(patterns: LayerPatterns, n_after: int) -> Scores | None:
    repeated, control = patterns.repeated, patterns.control
    if repeated is None or control is None:
        return None
    period = repeated.shape[-1] // 2
    queries = np.arange(period, 2 * period)
    keys = queries - period + n_after
    return mean_weight(repeated, queries, keys), mean_weight(control, queries, keys)


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
