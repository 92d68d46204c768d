"""Horizontal bars of characters, an eighth of a column exact where the terminal can."""

from __future__ import annotations

_EIGHTHS = " ▏▎▍▌▋▊▉"


def bar(part: float, width: int, ascii_only: bool = False) -> str:
    """A bar that fills a part (0 to 1) of `width` columns; at least a sliver if above 0."""
    part = min(1.0, max(0.0, part))
    if ascii_only:
        return "=" * max(round(part * width), 1 if part > 0 else 0)
    eighths = max(round(part * width * 8), 1 if part > 0 else 0)
    whole, rest = divmod(eighths, 8)
    return "█" * whole + (_EIGHTHS[rest] if rest else "")
