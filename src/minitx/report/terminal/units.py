"""How numbers are written for people: durations, counts, bytes, losses."""

from __future__ import annotations

import math


def duration(seconds: float) -> str:
    """Write a time span in at most two units, without spaces, as flags take it.

    ``0.4s``, ``12s``, ``3m05s``, ``1h02m``, ``2d03h``; ``?`` if it is not known (negative,
    infinite or NaN).
    """
    if not math.isfinite(seconds) or seconds < 0:
        return "?"
    if seconds < 9.95:
        return f"{seconds:.1f}s" if seconds >= 0.05 else "0s"
    rounded = round(seconds)
    for unit, size, smaller, part in (
        ("d", 86400, "h", 3600), ("h", 3600, "m", 60), ("m", 60, "s", 1),
    ):  # fmt: skip
        if rounded >= size:
            return f"{rounded // size}{unit}{rounded % size // part:02d}{smaller}"
    return f"{rounded}s"


def count(n: float) -> str:
    """Write how many, with three digits: ``999``, ``1.23 k``, ``10.7 M``, ``1.24 B``."""
    return _scaled(n, ("", "k", "M", "B", "T"))


def bytes_(n: float) -> str:
    """Write a size in powers of 1,000: ``512 B``, ``465 kB``, ``1.12 MB``."""
    return _scaled(n, ("B", "kB", "MB", "GB", "TB"))


def fixed(value: float, decimals: int) -> str:
    """Write a number with so many decimals; very large ones as a power of ten."""
    if abs(value) >= 1e5 and math.isfinite(value):
        return f"{value:.2e}"
    return f"{value:.{decimals}f}"


def percent(share: float) -> str:
    """Write a share of 1 in percent, a very small one as below 0.1 %."""
    if 0 < share < 0.001:
        return "< 0.1 %"
    return f"{100 * share:.1f} %"


def _scaled(n: float, units: tuple[str, ...]) -> str:
    if not math.isfinite(n):
        return "?"
    if n < 0:
        return "-" + _scaled(-n, units)
    if n < 999.5:
        return f"{n:.0f} {units[0]}".rstrip()
    power = 1
    # 999.5 of a unit would be written with four digits: it is 1.00 of the next.
    while n / 1000**power >= 999.5 and power < len(units) - 1:
        power += 1
    scaled = n / 1000**power
    decimals = 2 if scaled < 9.995 else 1 if scaled < 99.95 else 0
    return f"{scaled:,.{decimals}f} {units[power]}"
