"""Checks on config values; each failure is a one-line `BadInputError` naming key and fix."""

from __future__ import annotations

import math
from collections.abc import Sequence

from minitx.errors import BadInputError


def require(condition: bool, what: str, fix: str) -> None:
    """Raise `BadInputError(what, fix)` unless `condition` holds."""
    if not condition:
        raise BadInputError(what, fix)


def require_range(name: str, value: float, low: float, high: float) -> None:
    """Refuse a number outside [low, high], not finite, or not a number at all."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or not low <= value <= high:
        raise BadInputError(
            f"{name} is {value!r}, outside {_plain(low)} to {_plain(high)}",
            f"Choose a value from {_plain(low)} to {_plain(high)}",
        )


def _plain(limit: float) -> str:
    # 16,777,216 rather than 1.67772e+07.
    return f"{int(limit):,}" if float(limit).is_integer() else f"{limit:g}"


def require_one_of(name: str, value: str, allowed: Sequence[str]) -> None:
    """Refuse a word that is not on the list."""
    if value not in allowed:
        raise BadInputError(f"{name} is {value!r}", f"Choose one of {', '.join(allowed)}")
