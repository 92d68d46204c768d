"""A key/value cache that rows join and leave at any time."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from minitx.compute import aligned_zeros
from minitx.config import ModelConfig
from minitx.model import KVCache

_FIRST_CAPACITY = 64


class SlotCache(KVCache):
    """A cache whose rows are the first of a larger store, so that few bytes move.

    A joining row is written behind the last one; a leaving row is overwritten by the last one.
    The store doubles, in rows or in positions, when it is full (positions up to the context).
    `store` has the keys and values of all layers, `(n_layers, 2, rows, n_kv_heads, capacity,
    head_dim)`, and more rows than the cache.
    """

    def __init__(
        self,
        config: ModelConfig,
        device: torch.device,
        dtype: torch.dtype,
        rows: int = 0,
        capacity: int | None = None,
    ) -> None:
        self._context = config.context_length
        if capacity is None:
            capacity = min(_FIRST_CAPACITY, self._context)
        super().__init__(config, 0, capacity, device, dtype)
        shape = (config.n_layers, 2, rows, config.n_kv_heads, capacity, config.head_dim)
        self.store = _zeros(shape, device, dtype)
        self._show(torch.zeros(rows, dtype=torch.int64))

    def reserve(self, positions: int) -> None:
        """Have room for at least so many positions in each row, as far as the context goes."""
        if positions > self.capacity and self.capacity < self._context:
            capacity = min(max(positions, 2 * self.capacity), self._context)
            self._grow(self.store.size(2), capacity)
            self._show(self.lengths)

    def join(self, other: KVCache, rows: list[int]) -> None:
        """Append what these rows of another cache hold; a row named twice joins twice."""
        held, wanted = self.batch_size, self.batch_size + len(rows)
        longest = int(other.lengths.max())
        stored_rows = self.store.size(2)
        if wanted > stored_rows:
            self._grow(max(wanted, 2 * stored_rows), self.capacity)
        self.reserve(longest)
        index = torch.tensor(rows, device=self.store.device)
        for layer, both in enumerate(zip(other.keys, other.values, strict=True)):
            for kind, theirs in enumerate(both):
                chosen = theirs.index_select(0, index)[:, :, :longest]
                self.store[layer, kind, held:wanted, :, :longest] = chosen
        self._show(torch.cat((self.lengths, other.lengths[torch.tensor(rows)])))

    def leave(self, row: int) -> None:
        """Drop a row; the last row takes its place."""
        last = self.batch_size - 1
        lengths = self.lengths.clone()
        if row != last:
            held = int(lengths[last])
            self.store[:, :, row, :, :held] = self.store[:, :, last, :, :held]
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
        layers, kinds, there, heads, positions, width = self.store.shape
        shape = (layers, kinds, rows, heads, capacity, width)
        larger = _zeros(shape, self.store.device, self.store.dtype)
        larger[:, :, :there, :, :positions] = self.store
        self.store, self.capacity = larger, capacity

    def _show(self, lengths: Tensor) -> None:
        shown = self.store[:, :, : len(lengths)]
        self.keys = list(shown[:, 0].unbind(0))
        self.values = list(shown[:, 1].unbind(0))
        self.set_lengths(lengths)


def _zeros(shape: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    if device.type != "cpu":
        return torch.zeros(shape, device=device, dtype=dtype)
    return aligned_zeros(math.prod(shape) * dtype.itemsize).view(dtype).view(shape)
