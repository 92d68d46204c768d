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

import torch

from minitx.errors import BadInputError
from minitx.model import Transformer


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


@dataclass(frozen=True)
class Windows:
    """How a text is cut into windows, and computed; `windows_for` makes them fit a model.

    Attributes:
        context_length: most ids that a prediction sees.
        stride: targets scored by each window after the first. The context length puts windows
            side by side; less makes them overlap, so that contexts are fuller.
        max_tokens: score about as many targets in evenly spaced windows, the same ones each
            time; 0 scores all.
        autocast_dtype: format of the matrix products; None or float32 for that of the weights.
        batch_size: windows in one pass; None chooses.
    """

    context_length: int
    stride: int
    max_tokens: int = 0
    autocast_dtype: torch.dtype | None = None
    batch_size: int | None = None


def windows_for(
    model: Transformer,
    context_length: int | None = None,
    stride: int | None = None,
    max_tokens: int = 0,
    autocast_dtype: torch.dtype | None = None,
) -> Windows:
    """Windows that fit a model: of its context, and side by side, unless told otherwise.

    Raises:
        BadInputError: a context length or stride out of range.
    """
    longest = model.config.context_length
    context_length = longest if context_length is None else context_length
    if not 1 <= context_length <= longest:
        raise BadInputError(
            f"context length is {context_length:,}, and this model was trained with {longest:,}",
            f"Choose a --context from 1 to {longest}",
        )
    stride = context_length if stride is None else stride
    if not 1 <= stride <= context_length:
        raise BadInputError(
            f"stride is {stride}, outside 1 to the context length {context_length:,}",
            f"Choose a --stride from 1 to {context_length}",
        )
    return Windows(context_length, stride, max_tokens, autocast_dtype)


def spaced_windows(n_ids: int, windows: Windows) -> Iterator[Window]:
    """Windows, evenly spaced over the text, that together score at most `max_tokens` targets.

    No target is scored twice. Where `max_tokens` is 0, or that many windows would cover the text
    anyway, every target is scored.
    """
    n_targets = max(0, n_ids - 1)
    stride = windows.stride
    length = min(windows.context_length, n_targets)
    if 0 < windows.max_tokens < n_targets:
        scored = min(stride, length, windows.max_tokens)
        # The targets that a window may score: it needs its full length before their end.
        first = length - scored
        count = min(max(1, windows.max_tokens // scored), (n_targets - first) // scored)
        for index in range(count):
            yield Window(index * (n_targets - first) // count, length, first)
        return
    if length:
        yield Window(0, length)
    for done in range(length, n_targets, stride):
        end = min(done + stride, n_targets)
        # Side by side, the last window is short; overlapping ones all have a full context.
        start = done if stride == length else end - length
        yield Window(start, end - start, done - start)


def count_targets(n_ids: int, windows: Windows) -> int:
    """How many targets are scored: all but the first id, or about `max_tokens`."""
    if not 0 < windows.max_tokens < n_ids - 1:
        return max(0, n_ids - 1)
    return sum(window.length - window.skip for window in spaced_windows(n_ids, windows))
