"""Which view of training suits where the output goes."""

from __future__ import annotations

import os
from typing import TextIO

from minitx.training.observer import TrainingObserver

_NARROWEST, _LOWEST = 70, 16


def choose_view(stream: TextIO) -> TrainingObserver:
    """Pick the live screen for a terminal that can show it, plain lines for all else.

    Plain are: files and pipes, ``TERM=dumb`` (or unset or ``linux``, which has no Braille), CI
    systems (``CI`` set), streams that are not UTF-8, and windows too small for the screen.
    ``NO_COLOR`` keeps the live screen and takes its colours away.
    """
    if _can_redraw(stream):
        from minitx.report.training.training_live import LiveTrainingView

        return LiveTrainingView(stream)
    from minitx.report.training.training_plain import PlainTrainingView

    return PlainTrainingView(stream)


def _can_redraw(stream: TextIO) -> bool:
    if not stream.isatty() or os.environ.get("CI"):
        return False
    # Windows sets no TERM, and rich knows how to draw there.
    if os.name != "nt" and os.environ.get("TERM", "dumb") in ("", "dumb", "unknown", "linux"):
        return False
    if not (stream.encoding or "").lower().replace("-", "").startswith("utf"):
        return False
    try:
        columns, lines = os.get_terminal_size(stream.fileno())
    except (OSError, ValueError):
        return False
    return columns >= _NARROWEST and lines >= _LOWEST
