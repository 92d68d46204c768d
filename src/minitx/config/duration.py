"""Time spans as people write them: ``90s``, ``3m``, ``1h30m``."""

from __future__ import annotations

import re

from minitx.errors import BadInputError

_SPAN = re.compile(
    r"(?:(?P<h>\d+(?:\.\d+)?)h)?(?:(?P<m>\d+(?:\.\d+)?)m)?(?:(?P<s>\d+(?:\.\d+)?)s?)?"
)
_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0}


def parse_duration(name: str, text: str) -> float:
    """Seconds in a time span; a bare number is seconds.

    Args:
        name: of the flag, for the error.
        text: for example ``90s``, ``3m``, ``1h30m``, ``45``.

    Raises:
        BadInputError: it is no time span, or none at all.
    """
    match = _SPAN.fullmatch(text.strip().lower())
    seconds = 0.0
    if match is not None:
        seconds = sum(float(match[unit] or 0) * size for unit, size in _SECONDS.items())
    if seconds <= 0:
        raise BadInputError(
            f"{name} is {text!r}, which is no time span", "Write it like 90s, 3m or 1h30m"
        )
    return seconds
