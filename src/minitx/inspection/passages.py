"""Passages of a training text that end as a context does, and what followed each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from minitx.evaluation.arrays import IdArray, IntArray

_BLOCK = 1 << 22
_AROUND = 24
MOST_SEARCHED = 1 << 28
"""Tokens of the text, from its beginning."""


@dataclass(frozen=True, eq=False)
class Passages:
    """Where the longest ending of the context that occurs in the text does occur.

    Attributes:
        length: tokens of that ending; 0 if even the last token does not occur.
        count: how often it occurs with a token after it.
        following: the ids that came next, each with how often, the most frequent first.
        excerpts: the first few: ids before and with the ending, and after it.
    """

    length: int
    count: int
    following: tuple[tuple[int, int], ...]
    excerpts: tuple[tuple[list[int], list[int]], ...]


def find_passages(text: IdArray, context: IntArray, most: int = 5, longest: int = 64) -> Passages:
    """Search a text, (tokens,) ids, for the longest ending of a context; `most` excerpts."""
    context = context[-longest:]
    length, found = 0, [np.empty(0, np.int64)]
    n_tokens = min(len(text), MOST_SEARCHED)
    for start in range(0, n_tokens - 1, _BLOCK):
        block = np.asarray(text[start : min(start + _BLOCK, n_tokens - 1)])
        # Places of the last token of endings that get longer, until there are none.
        ends = start + np.flatnonzero(block == context[-1])
        n = 1
        while len(ends) and n < len(context):
            earlier = ends[ends >= n]
            longer = earlier[np.asarray(text[earlier - n]) == context[-1 - n]]
            if not len(longer):
                break
            ends, n = longer, n + 1
        if len(ends) and n >= length:
            found = [*found, ends] if n == length else [ends]
            length = n
    ends = np.concatenate(found)
    following, counts = np.unique(np.asarray(text[ends + 1]), return_counts=True)
    order = np.argsort(-counts, kind="stable")
    # Spread over the text, not the first alone.
    chosen = ends[np.unique(np.linspace(0, len(ends) - 1, most).astype(int))] if len(ends) else ends
    return Passages(
        length,
        len(ends),
        tuple((int(following[i]), int(counts[i])) for i in order),
        tuple(
            (text[max(0, end - length - _AROUND + 1) : end + 1].tolist(),
             text[end + 1 : end + 1 + _AROUND].tolist())
            for end in map(int, chosen)
        ),
    )  # fmt: skip
