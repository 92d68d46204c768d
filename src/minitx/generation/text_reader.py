"""From texts to next-token logits, row by row, with a cache of what was read.

Past the context the window slides: when a row has filled it, the oldest quarter is forgotten, and
the newest three quarters are read anew in one pass, from position 0. So a token is always
predicted from at least three quarters of the context (once there is that much), and the cost of
rereading is spread over a quarter of the context's length in tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from minitx.fast.decode_batch import BatchPass, fits_batch_pass
from minitx.fast.decode_numpy import OneRow, fits_one_row
from minitx.fast.decode_one import NativeRow, fits_native_row
from minitx.generation.slot_cache import SlotCache
from minitx.model import KVCache, Transformer


def window_after_slide(context_length: int) -> int:
    """How many of the newest tokens are kept when the window slides."""
    return context_length - context_length // 4


def one_row_reader(model: Transformer) -> NativeRow | OneRow:
    """What reads one row alone of a model that `fits_one_row`."""
    return NativeRow(model) if fits_native_row(model) else OneRow(model)


class Decoder:
    """Reads texts that join, grow by a token at a time, and leave. To be used without gradients.

    Args:
        model: in eval mode.
    """

    def __init__(self, model: Transformer) -> None:
        self._model = model
        weight = model.embedding.weight
        self.device, self._dtype = weight.device, weight.dtype
        self.cache = SlotCache(model.config, self.device, self._dtype)
        self._one_row: NativeRow | OneRow | None = None
        self._batch_pass: BatchPass | None = None

    def read(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """Let texts join behind the last row, each read in one pass; equal ones are read once.

        Returns:
            Logits of what follows each, `(len(prompts), vocab_size)`.
        """
        different = list(dict.fromkeys(map(tuple, prompts)))
        lengths = torch.tensor([len(prompt) for prompt in different])
        ids = torch.zeros(len(different), int(lengths.max()), dtype=torch.int64)
        for place, prompt in enumerate(different):
            ids[place, : len(prompt)] = torch.tensor(prompt)
        cache = KVCache(self._model.config, len(different), ids.size(1), self.device, self._dtype)
        same = bool((lengths == lengths[0]).all())
        logits: Tensor = self._model(
            ids.to(self.device), cache=cache, lengths=None if same else lengths, last_only=True
        )[:, 0]
        place_of = {prompt: place for place, prompt in enumerate(different)}
        places = [place_of[tuple(prompt)] for prompt in prompts]
        self.cache.join(cache, places)
        return logits[torch.tensor(places, device=self.device)]

    def feed(self, tokens: Sequence[int]) -> Tensor:
        """Append a token to each row.

        Args:
            tokens: one for each row, none of which is full.

        Returns:
            Logits of what follows, `(rows, vocab_size)`; overwritten by the next call.
        """
        self.cache.reserve(self.cache.longest + 1)
        if len(tokens) == 1 and fits_one_row(self._model):
            if self._one_row is None:
                self._one_row = one_row_reader(self._model)
            return self._one_row.feed(tokens[0], self.cache)
        if fits_batch_pass(self._model):
            if self._batch_pass is None:
                self._batch_pass = BatchPass(self._model)
            return self._batch_pass.feed(tokens, self.cache)
        newest = torch.tensor(tokens, device=self.device)[:, None]
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

        Args:
            row: which.
            text: the newest `window_after_slide` tokens of it, without one that is fed next.
        """
        fresh = KVCache(self._model.config, 1, max(1, len(text)), self.device, self._dtype)
        if text:
            self._model(torch.tensor([text], device=self.device), cache=fresh, last_only=True)
        self.cache.rewrite(row, fresh)

    def leave(self, row: int) -> None:
        """Let a row go; the last row takes its place."""
        self.cache.leave(row)
