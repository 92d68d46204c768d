"""The arrays that evaluation works with, sums of them by group, and bits per byte.

Bits per byte and per character compare across tokenizers. A loss per token depends on what a token
is. The same total, divided by the bytes of the text that was scored, does not. The first token of
a text has nothing before it and is not scored, so its bytes are not counted either.

Tokens that stand for what the vocabulary lacks hide the text behind them: where there are any,
the true figure of a model that had to spell them out would be higher.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from minitx.tokenizer import Tokenizer

ByteArray = npt.NDArray[np.uint8]
IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
Float32Array = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]
IdArray = npt.NDArray[np.integer]
"""Token ids of any integer type, perhaps a memory map."""

_AT_ONCE = 1 << 20


class GroupedSums:
    """Counts targets by group and sums up figures of them, as they stream by.

    Attributes:
        counts: `(groups,)` targets.
        sums: `(figures, groups)`.
    """

    def __init__(self, n_groups: int, n_figures: int = 1) -> None:
        self.counts = np.zeros(n_groups)
        self.sums = np.zeros((n_figures, n_groups))

    def add(self, group: IdArray, *figures: npt.NDArray[np.generic]) -> None:
        """Add targets: the group of each, and its figures, all `(n,)`."""
        self.counts += np.bincount(group, minlength=len(self.counts))
        for sums, figure in zip(self.sums, figures, strict=True):
            sums += np.bincount(group, figure.astype(np.float64), len(self.counts))


def bits_per(total_nats: float, n: float) -> float:
    """Bits for each of n units, from a total in nats; NaN for no units."""
    return total_nats / math.log(2) / n if n else math.nan


def token_sizes(tokenizer: Tokenizer) -> IntArray:
    """Bytes that each id stands for, `(vocab_size,)`; the unknown token counts as one, the end of
    an answer as none."""
    sizes = np.array(
        [len(tokenizer.token_bytes(i)) for i in range(tokenizer.vocab_size)], dtype=np.int64
    )
    if tokenizer.template is not None:
        sizes[tokenizer.template.end_id] = 0
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
