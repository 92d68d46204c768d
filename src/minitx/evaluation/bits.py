"""Bits per byte and per character: losses that compare across tokenizers.

A loss per token depends on what a token is. The same total, divided by the bytes of the text that
was scored, does not. The first token of a text has nothing before it and is not scored, so its
bytes are not counted either.

Tokens that stand for what the vocabulary lacks hide the text behind them: where there are any,
the true figure of a model that had to spell them out would be higher.
"""

from __future__ import annotations

import math

import numpy as np

from minitx.evaluation.arrays import IdArray, IntArray
from minitx.tokenizer import Tokenizer

_AT_ONCE = 1 << 20


def bits_per(total_nats: float, n: float) -> float:
    """Bits for each of n units, from a total in nats; NaN for no units."""
    return total_nats / math.log(2) / n if n else math.nan


def token_sizes(tokenizer: Tokenizer) -> IntArray:
    """Bytes that each id stands for, `(vocab_size,)`; the unknown token counts as one."""
    sizes = np.array(
        [len(tokenizer.token_bytes(i)) for i in range(tokenizer.vocab_size)], dtype=np.int64
    )
    if tokenizer.unknown_id is not None:
        sizes[tokenizer.unknown_id] = 1
    return sizes


def ids_within(ids: IdArray, sizes: IntArray, n_bytes: int) -> int:
    """How many ids from the start on stand for at most `n_bytes` bytes together.

    A memory map is read as far as needed; `sizes` are those of `token_sizes`.
    """
    count, left = 0, n_bytes
    while count < len(ids):
        ends = np.cumsum(sizes[ids[count : count + _AT_ONCE]])
        fitting = int(np.searchsorted(ends, left, side="right"))
        count += fitting
        if fitting < len(ends):
            break
        left -= int(ends[-1])
    return count
