"""A key/value cache that rows join and leave at any time."""

from __future__ import annotations

import torch
from torch import Tensor

from minitx.config import ModelConfig
from minitx.model import KVCache

_FIRST_CAPACITY = 64


class SlotCache(KVCache):
    """A cache whose rows are the first of a larger store, so that few bytes move.

    A joining row is written behind the last one; a leaving row is overwritten by the last one.
    The store doubles, in rows or in positions, when it is full (positions up to the context).

    Args:
        config: of the model.
        device: where.
        dtype: of the keys and values.
    """

    def __init__(self, config: ModelConfig, device: torch.device, dtype: torch.dtype) -> None:
        self._context = config.context_length
        super().__init__(config, 0, min(_FIRST_CAPACITY, self._context), device, dtype)
        self._stored_keys, self._stored_values = self.keys, self.values

    def reserve(self, positions: int) -> None:
        """Have room for at least so many positions in each row, as far as the context goes."""
        if positions > self.capacity and self.capacity < self._context:
            capacity = min(max(positions, 2 * self.capacity), self._context)
            self._grow(self._stored_keys[0].size(0), capacity)
            self._show(self.lengths)

    def join(self, other: KVCache, rows: list[int]) -> None:
        """Append what these rows of another cache hold; a row named twice joins twice."""
        held, wanted = self.batch_size, self.batch_size + len(rows)
        longest = int(other.lengths.max())
        stored_rows = self._stored_keys[0].size(0)
        if wanted > stored_rows:
            self._grow(max(wanted, 2 * stored_rows), self.capacity)
        self.reserve(longest)
        index = torch.tensor(rows, device=self.keys[0].device)
        for stored, theirs in zip(
            (*self._stored_keys, *self._stored_values), (*other.keys, *other.values), strict=True
        ):
            stored[held:wanted, :, :longest] = theirs[index, :, :longest]
        self._show(torch.cat((self.lengths, other.lengths[torch.tensor(rows)])))

    def leave(self, row: int) -> None:
        """Drop a row; the last row takes its place."""
        last = self.batch_size - 1
        lengths = self.lengths.clone()
        if row != last:
            held = int(lengths[last])
            for stored in (*self._stored_keys, *self._stored_values):
                stored[row, :, :held] = stored[last, :, :held]
            lengths[row] = lengths[last]
        self._show(lengths[:last])

    def rewrite(self, row: int, other: KVCache) -> None:
        """Let a row hold what the only row of another cache holds."""
        held = int(other.lengths[0])
        for mine, theirs in zip(
            (*self.keys, *self.values), (*other.keys, *other.values), strict=True
        ):
            mine[row, :, :held] = theirs[0, :, :held]
        lengths = self.lengths.clone()
        lengths[row] = held
        self.set_lengths(lengths)

    def _grow(self, rows: int, capacity: int) -> None:
        def larger(stored: Tensor) -> Tensor:
            there, heads, positions, width = stored.shape
            new = stored.new_zeros((rows, heads, capacity, width))
            new[:there, :, :positions] = stored
            return new

        self._stored_keys = [larger(stored) for stored in self._stored_keys]
        self._stored_values = [larger(stored) for stored in self._stored_values]
        self.capacity = capacity

    def _show(self, lengths: Tensor) -> None:
        self.keys = [stored[: len(lengths)] for stored in self._stored_keys]
        self.values = [stored[: len(lengths)] for stored in self._stored_values]
        self.set_lengths(lengths)
