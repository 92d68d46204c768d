"""Where to put windows over a text so that each token is scored exactly once.

With n ids there are n - 1 targets: nothing comes before the first id, so it is never scored.
Target t (from 0) is id t + 1, and is predicted from the ids of its window up to t.

Windows side by side (stride = context length) score each target from between 1 and
`context_length` ids. With a shorter stride, windows overlap: each scores only the targets that
the one before it left, so that (after the first window) every target is predicted from at least
`context_length - stride + 1` ids.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from minitx.errors import BadInputError


@dataclass(frozen=True)
class Window:
    """A stretch of ids that the model reads at once.

    Attributes:
        start: index of its first id, and of its first target.
        length: how many ids it reads, and how many targets follow them.
        skip: how many of its first targets are not scored here.
    """

    start: int
    length: int
    skip: int = 0


def require_stride(stride: int, context_length: int) -> None:
    """Refuse a stride that would score nothing, or leave gaps.

    Raises:
        BadInputError: it is below 1 or above the context length.
    """
    if not 1 <= stride <= context_length:
        raise BadInputError(
            f"stride is {stride}, outside 1 to the context length {context_length:,}",
            f"Choose a --stride from 1 to {context_length}",
        )


def spaced_windows(
    n_ids: int, context_length: int, stride: int, max_tokens: int
) -> Iterator[Window]:
    """Windows, evenly spaced over the text, that together score at most `max_tokens` targets.

    No target is scored twice. Where `max_tokens` is 0, or that many windows would cover the text
    anyway, every target is scored.

    Raises:
        BadInputError: the stride is out of range.
    """
    require_stride(stride, context_length)
    n_targets = max(0, n_ids - 1)
    length = min(context_length, n_targets)
    if 0 < max_tokens < n_targets:
        scored = min(stride, length, max_tokens)
        # The targets that a window may score: it needs its full length before their end.
        first = length - scored
        count = min(max(1, max_tokens // scored), (n_targets - first) // scored)
        for index in range(count):
            yield Window(index * (n_targets - first) // count, length, first)
        return
    if length:
        yield Window(0, length)
    for done in range(length, n_targets, stride):
        end = min(done + stride, n_targets)
        # Side by side, the last window is short; overlapping ones all have a full context.
        start = done if stride == context_length else end - context_length
        yield Window(start, end - start, done - start)
