"""Roles that show where random tokens repeat: induction and duplicate-token heads."""

from __future__ import annotations

import numpy as np

from minitx.inspection.roles import LayerPatterns, Scores, head_role, mean_weight


@head_role("induction", rank=0, is_specific=True, short_name="induction", column="induct")
def induction(patterns: LayerPatterns) -> Scores | None:
    """Looks at the token that came after the earlier occurrence (Olsson et al. 2022)."""
    return _after_earlier(patterns, 1)


@head_role("duplicate token", rank=10, is_specific=True, short_name="duplicate", column="dupl")
def duplicate_token(patterns: LayerPatterns) -> Scores | None:
    """Looks at the earlier occurrence of the same token (Wang et al. 2022, section 3)."""
    return _after_earlier(patterns, 0)


def _after_earlier(patterns: LayerPatterns, n_after: int) -> Scores | None:
    repeated, control, period = patterns.repeated, patterns.control, patterns.period
    if repeated is None or control is None:
        return None
    queries = np.arange(period, 2 * period)
    keys = queries - period + n_after
    return mean_weight(repeated, queries, keys), mean_weight(control, queries, keys)
