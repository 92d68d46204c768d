"""Roles that any text shows, of heads that look at a fixed place; even attention is the control."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from minitx.inspection.roles import LayerPatterns, Scores, head_role, late_queries, mean_weight

LOCAL_SPAN = 8


@head_role("previous token", rank=20, is_specific=True, short_name="previous", column="prev")
def previous_token(patterns: LayerPatterns) -> Scores | None:
    """Looks at the token before (Elhage et al. 2021)."""
    return _one_place(patterns, lambda queries: queries - 1)


@head_role("current token", rank=30, is_specific=True, short_name="current", column="curr")
def current_token(patterns: LayerPatterns) -> Scores | None:
    """Looks at the token itself."""
    return _one_place(patterns, lambda queries: queries)


@head_role("first token", rank=40, is_specific=True, short_name="first", column="first")
def first_token(patterns: LayerPatterns) -> Scores | None:
    """Looks at position 0, an attention sink (Xiao et al. 2023)."""
    return _one_place(patterns, np.zeros_like)


@head_role("local", rank=50, is_specific=False, short_name="local", column="local")
def local(patterns: LayerPatterns) -> Scores | None:
    """Looks at the last few tokens, itself among them."""
    weights = patterns.text
    if weights is None or weights.shape[2] < 4 * LOCAL_SPAN:
        return None
    queries = late_queries(weights)
    near = sum(mean_weight(weights, queries, queries - back) for back in range(LOCAL_SPAN))
    score = np.asarray(near, dtype=np.float32)
    return score, np.full_like(score, np.mean(LOCAL_SPAN / (queries + 1.0)))


def _one_place(
    patterns: LayerPatterns, key_of: Callable[[npt.NDArray[np.int64]], npt.NDArray[np.int64]]
) -> Scores | None:
    if patterns.text is None:
        return None
    queries = late_queries(patterns.text)
    score = mean_weight(patterns.text, queries, key_of(queries))
    return score, np.full_like(score, np.mean(1.0 / (queries + 1.0)))
