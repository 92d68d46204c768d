"""Texts made to bring out what a head does: random tokens repeated, and a control.

A token that follows its own earlier occurrence by chance tells nothing about repetition. So the
probe is drawn at random (Olsson et al. 2022, section "Argument 4"), and the control is the same
text with the second half drawn anew: positions and offsets are equal, only the repetition is gone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from minitx.evaluation.arrays import IdArray, IntArray

MAX_PERIOD = 64
MIN_PERIOD = 4


@dataclass(frozen=True, eq=False)
class RepeatProbe:
    """Random tokens, once and again.

    Attributes:
        period: number of tokens before they repeat.
        repeated: (batch, 2 * period) ids; the second half equals the first.
        control: (batch, 2 * period) ids; the same first half, then other random tokens.
    """

    period: int
    repeated: IntArray
    control: IntArray


def repeat_probe(vocab_size: int, context_length: int, batch: int, seed: int) -> RepeatProbe | None:
    """Draw a probe; None where the context is too short for one.

    Within a half no token occurs twice if the vocabulary is large enough, so that "the earlier
    occurrence" is one position.
    """
    period = min(MAX_PERIOD, context_length // 2)
    if vocab_size >= MIN_PERIOD:
        period = min(period, vocab_size)
    if period < MIN_PERIOD:
        return None
    rng = np.random.default_rng(seed)
    first, other = (
        np.stack([rng.choice(vocab_size, period, vocab_size < period) for _ in range(batch)])
        for _ in range(2)
    )
    repeated, control = np.hstack([first, first]), np.hstack([first, other])
    return RepeatProbe(period, repeated.astype(np.int64), control.astype(np.int64))


def text_windows(ids: IdArray, length: int, count: int) -> IntArray:
    """At most `count` windows spread evenly over a text, (windows, length) ids.

    They never overlap, so a short text has fewer, and one shorter than a window has none.
    """
    fitting = min(count, len(ids) // length)
    if fitting == 0:
        return np.empty((0, length), dtype=np.int64)
    starts = np.linspace(0, len(ids) - length, fitting).astype(np.int64)
    return np.stack([np.asarray(ids[start : start + length]) for start in starts]).astype(np.int64)


def windows_in_words(count: int, length: int, text_name: str) -> str:
    """For people, what `text_windows` gave."""
    return f"{count} window{'s' if count != 1 else ''} of {length} tokens of {text_name}"
