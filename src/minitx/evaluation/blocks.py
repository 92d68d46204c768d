"""A text in blocks of about equal bytes: the units that a bootstrap draws.

Neighbouring tokens are surprising together, so that single tokens are no independent draws; long
stretches nearly are. Blocks are cut by bytes, so that models with different tokenizers have the
same ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from minitx.corpus.encoded_file import release
from minitx.evaluation.arrays import Float32Array, FloatArray, GroupedSums, IdArray, IntArray

_AT_ONCE = 1 << 20

MOST_BLOCKS = 100
SMALLEST_BLOCK = 128
"""Bytes below which a block would depend too much on its neighbours."""


@dataclass(frozen=True, eq=False)
class Blocks:
    """What was summed in each block; blocks without a scored token are left out.

    All are `(blocks,)`; `bytes` are those that the scored tokens stand for, and `number` is the
    place of each block in the text.
    """

    nats: FloatArray
    tokens: FloatArray
    bytes: FloatArray
    number: IntArray


class BlockSums:
    """Sums losses by block as they stream by.

    The whole text has `n_bytes`, and each token id stands for so many as `sizes` says.
    """

    def __init__(self, n_bytes: int, sizes: IntArray) -> None:
        self._sizes = sizes
        self.n_blocks = max(1, min(MOST_BLOCKS, n_bytes // SMALLEST_BLOCK))
        self._block_bytes = max(1.0, n_bytes / self.n_blocks)
        self._blocks = GroupedSums(self.n_blocks, 2)
        self._read_ids = 0
        self._read_bytes = 0

    def add(self, ids: IdArray, index: IntArray, losses: Float32Array) -> None:
        """Add losses of the targets at `index` of `ids`; each call is further on in the text."""
        # A part of a text may be scored in places far apart, with much to count in between.
        while self._read_ids <= index[-1]:
            end = min(self._read_ids + _AT_ONCE, int(index[-1]) + 1)
            first, last = np.searchsorted(index, [self._read_ids, end])
            self._add_up_to(end, ids, index[first:last], losses[first:last])
            release(ids)

    def _add_up_to(self, end: int, ids: IdArray, index: IntArray, losses: Float32Array) -> None:
        sizes = self._sizes[ids[self._read_ids : end]]
        ends = self._read_bytes + np.cumsum(sizes)
        here = index - self._read_ids
        starts = ends[here] - sizes[here]
        block = np.minimum((starts / self._block_bytes).astype(np.int64), self.n_blocks - 1)
        self._blocks.add(block, losses, sizes[here])
        self._read_ids, self._read_bytes = end, int(ends[-1])

    def result(self) -> Blocks:
        """The sums so far."""
        number = np.flatnonzero(self._blocks.counts)
        nats, n_bytes = self._blocks.sums[:, number]
        return Blocks(nats, self._blocks.counts[number], n_bytes, number)
