"""Roles of heads that look at certain positions.

The control of those that any text shows is even attention; that of those that show where random
tokens repeat, the same offset without a repetition.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from minitx.evaluation.arrays import IntArray
from minitx.inspection.roles import LayerPatterns, Scores, head_role, late_queries, mean_weight

LOCAL_SPAN = 8


@head_role("induction", rank=0, is_specific=True, short_name="induction", column="induct")
def induction(patterns: LayerPatterns) -> Scores | None:
    """Looks at the token that came after the earlier occurrence (Olsson et al. 2022)."""
    return _after_earlier(patterns, 1)


@head_role("duplicate token", rank=10, is_specific=True, short_name="duplicate", column="dupl")
def duplicate_token(patterns: LayerPatterns) -> Scores | None:
    """Looks at the earlier occurrence of the same token (Wang et al. 2022, section 3)."""
    return _after_earlier(patterns, 0)


@head_role("previous token", rank=20, is_specific=True, short_name="previous", column="prev")
def previous_token(patterns: LayerPatterns) -> Scores | None:
    """Looks at the token before (Elhage et al. 2021)."""
    return _in_any_text(patterns, lambda queries: queries - 1)


@head_role("current token", rank=30, is_specific=True, short_name="current", column="curr")
def current_token(patterns: LayerPatterns) -> Scores | None:
    """Looks at the token itself."""
    return _in_any_text(patterns, lambda queries: queries)


@head_role("first token", rank=40, is_specific=True, short_name="first", column="first")
def first_token(patterns: LayerPatterns) -> Scores | None:
    """Looks at position 0, an attention sink (Xiao et al. 2023)."""
    return _in_any_text(patterns, np.zeros_like)


@head_role("local", rank=50, is_specific=False, short_name="local", column="local")
def local(patterns: LayerPatterns) -> Scores | None:
    """Looks at the last few tokens, itself among them."""
    if patterns.text is None or patterns.text.shape[2] < 4 * LOCAL_SPAN:
        return None
    return _in_any_text(patterns, *(lambda at, back=back: at - back for back in range(LOCAL_SPAN)))


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
    repeated, control, period = patterns.repeated, patterns.control, patterns.period
    if repeated is None or control is None:
        return None
    queries = np.arange(period, 2 * period)
    keys = queries - period + n_after
    return mean_weight(repeated, queries, keys), mean_weight(control, queries, keys)
