"""From texts to next-token logits, row by row, with a cache of what was read.

Past the context the window slides: when a row has filled it, the oldest quarter is forgotten, and
the newest three quarters are read anew in one pass, from position 0. So a token is always
predicted from at least three quarters of the context (once there is that much), and the cost of
rereading is spread over a quarter of the context's length in tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from minitx import engine
from minitx.generation.slot_cache import SlotCache
from minitx.model import Transformer


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
        weight = model.embedding.weight
        self.device, self._dtype = weight.device, weight.dtype
        self.cache = SlotCache(model.config, self.device, self._dtype)
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
        return logits[torch.tensor(rows, device=self.device)]

    def feed(self, tokens: Sequence[int]) -> Tensor:
        """Append a token to each row, none of which is full.

        Returns:
            Logits of what follows, `(rows, vocab_size)`; overwritten by the next call.
        """
        self.cache.reserve(self.cache.longest + 1)
        if self._decoder is not None:
            fed: Tensor = self._decoder.feed(tokens, self.cache)
            return fed
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

        That is, the newest `window_after_slide` tokens without the one that is fed next.
        """
        fresh = self._new_cache([text])
        if text:
            self._append([text], fresh)
        self.cache.rewrite(row, fresh)

    def _new_cache(self, texts: Sequence[Sequence[int]]) -> SlotCache:
        longest = max(1, *map(len, texts))
        return SlotCache(self._model.config, self.device, self._dtype, len(texts), longest)

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
            ids.to(self.device), cache=cache, lengths=unequal, last_only=True
        )
        return logits[:, 0]

    def leave(self, row: int) -> None:
        """Let a row go; the last row becomes the one of this number."""
        self.cache.leave(row)
