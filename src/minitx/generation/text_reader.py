"""From texts to next-token logits, row by row, with a cache of what was read.

Past the context the window slides: when a row has filled it, the oldest quarter is forgotten, and
the newest three quarters are read anew in one pass, from position 0. So a token is always
predicted from at least three quarters of the context (once there is that much), and the cost of
rereading is spread over a quarter of the context's length in tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from minitx import engine
from minitx.compute import aligned_zeros
from minitx.model import KVCache, Transformer

_FIRST_CAPACITY = 64


class SlotCache(KVCache):
    """A cache whose rows are the first of a larger store, so that few bytes move.

    A joining row is written behind the last one; a leaving row is overwritten by the last one.
    The store doubles, in rows or in positions, when it is full (positions up to the context).
    `store` has the keys and values of all layers, `(n_layers, 2, rows, n_kv_heads, capacity,
    head_dim)`, and more rows than the cache.
    """

    def __init__(self, model: Transformer, rows: int = 0, capacity: int = _FIRST_CAPACITY) -> None:
        config, weight = model.config, model.embedding.weight
        self._context = config.context_length
        super().__init__(config, 0, min(capacity, self._context), weight.device, weight.dtype)
        shape = (config.n_layers, 2, rows, config.n_kv_heads, self.capacity, config.head_dim)
        self.store = _zeros(shape, weight)
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
        larger = _zeros(shape, self.store)
        larger[:, :, :there, :, :positions] = self.store
        self.store, self.capacity = larger, capacity

    def _show(self, lengths: Tensor) -> None:
        shown = self.store[:, :, : len(lengths)]
        self.keys = list(shown[:, 0].unbind(0))
        self.values = list(shown[:, 1].unbind(0))
        self.set_lengths(lengths)


def _zeros(shape: tuple[int, ...], like: Tensor) -> Tensor:
    if not like.is_cpu:
        return torch.zeros(shape, device=like.device, dtype=like.dtype)
    return aligned_zeros(math.prod(shape) * like.dtype.itemsize).view(like.dtype).view(shape)


def window_after_slide(context_length: int) -> int:
    """How many of the newest tokens are kept when the window slides."""
    return context_length - context_length // 4


class TextReader:
    """Reads texts that join, grow by a token at a time, and leave. To be used without gradients.

    Args:
        model: in eval mode. Hooks, methods and weights may change until the next `read`.
    """

    def __init__(self, model: Transformer) -> None:
        self._model = model
        self._device = model.embedding.weight.device
        self.cache = SlotCache(model)
        self._decoder: Any = None  # of the fast room; asked for at each prompt

    def read(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """Let texts join behind the last row, each read in one pass; equal ones are read once.

        Returns:
            Logits of what follows each, `(len(prompts), vocab_size)`.
        """
        self._decoder = engine.decoder(self._model)
        different = list(dict.fromkeys(map(tuple, prompts)))
        cache = self._new_cache(different)
        logits = self._append(different, cache)
        row_of = {prompt: row for row, prompt in enumerate(different)}
        rows = [row_of[tuple(prompt)] for prompt in prompts]
        self.cache.join(cache, rows)
        return logits[torch.tensor(rows, device=self._device)]

    def feed(self, tokens: Sequence[int]) -> Tensor:
        """Append a token to each row, none of which is full.

        Returns:
            Logits of what follows, `(rows, vocab_size)`; overwritten by the next call.
        """
        self.cache.reserve(self.cache.longest + 1)
        if self._decoder is not None:
            fed: Tensor = self._decoder.feed(tokens, self.cache)
            return fed
        newest = torch.tensor(tokens, device=self._device)[:, None]
        logits: Tensor = self._model(newest, cache=self.cache)[:, -1]
        return logits

    def full_rows(self) -> list[int]:
        """Rows that have filled the context: `slide` them before feeding more."""
        context = self._model.config.context_length
        if self.cache.longest < context:
            return []
        return [row for row, length in enumerate(self.cache.lengths.tolist()) if length == context]

    def slide(self, row: int, text: Sequence[int]) -> None:
        """Forget a row, and read the newest part of its text anew.

        That is, the newest `window_after_slide` tokens without the one that is fed next.
        """
        fresh = self._new_cache([text])
        if text:
            self._append([text], fresh)
        self.cache.rewrite(row, fresh)

    def _new_cache(self, texts: Sequence[Sequence[int]]) -> SlotCache:
        longest = max(1, *map(len, texts))
        return SlotCache(self._model, len(texts), longest)

    def _append(self, texts: Sequence[Sequence[int]], cache: SlotCache) -> Tensor:
        if self._decoder is not None:
            read: Tensor | None = self._decoder.read(texts, cache)
            if read is not None:
                return read
        lengths = torch.tensor([len(text) for text in texts])
        ids = torch.zeros(len(texts), int(lengths.max()), dtype=torch.int64)
        for row, text in zip(ids, texts, strict=True):
            row[: len(text)] = torch.tensor(text)
        unequal = None if bool((lengths == lengths[0]).all()) else lengths
        logits: Tensor = self._model(
            ids.to(self._device), cache=cache, lengths=unequal, last_only=True
        )
        return logits[:, 0]
