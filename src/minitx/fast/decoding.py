"""The door to decoding: tokens of each text in, logits of what follows out, a cache in between.

All forms compute what `Transformer.forward` says; read that first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from minitx.fast.decode_batch import BatchDecoder
from minitx.fast.decode_numpy import NumpyDecoder
from minitx.fast.decode_one import OneTextDecoder
from minitx.fast.decode_weights import DecodingCache
from minitx.fast.library import library
from minitx.fast.support import reason_against_cpu
from minitx.model import KVCache, Transformer

_FEW = 4
"""Tokens of one text up to which it is faster to read the weights for each than to pack them."""


class Decoder:
    """Appends tokens to texts. To be used without gradients; made by `decoder`."""

    def __init__(self, model: Transformer) -> None:
        self._model = model
        self._one: OneTextDecoder | NumpyDecoder | None = None
        self._batch: BatchDecoder | None = None

    @property
    def engine(self) -> str:
        """What computes, in words."""
        return "NumPy (several texts: plain)" if library() is None else "native"

    def feed(self, tokens: Sequence[int], cache: DecodingCache) -> Tensor:
        """Append a token to each row of a cache that has room for it.

        Returns:
            Logits of what follows, `(rows, vocab_size)`; overwritten by the next call.
        """
        if len(tokens) == 1:
            if self._one is None:
                self._one = (NumpyDecoder if library() is None else OneTextDecoder)(self._model)
            return self._one.feed(tokens, cache)
        if library() is None:
            logits: Tensor = self._model(torch.tensor(tokens)[:, None], cache=cast(KVCache, cache))
            return logits[:, -1]
        return self._several().feed(tokens, cache)

    def read(self, texts: Sequence[Sequence[int]], cache: DecodingCache) -> Tensor | None:
        """Append the tokens of a text, at least one, to each row of a cache that has room for them.

        Returns:
            Logits of what follows each, `(rows, vocab_size)`, which the next call may overwrite;
            None, and nothing is read, where the model itself reads as fast.

        Raises:
            IndexError: one is no token.
        """
        if library() is None:
            return None
        size = self._model.config.vocab_size
        if not all(0 <= token < size for text in texts for token in text):
            raise IndexError(f"a prompt has a token that is not among the {size:,}")
        if len(texts) == 1 and len(texts[0]) <= _FEW:
            for token in texts[0]:
                logits = self.feed([token], cache)
            return logits
        return self._several().read(texts, cache)

    def _several(self) -> BatchDecoder:
        if self._batch is None:
            self._batch = BatchDecoder(self._model)
        return self._batch


def decoder(model: Transformer) -> Decoder | None:
    """What reads tokens of a model in eval mode faster than it does; None if it must be run itself.

    A decoder is for the model as it is: ask again when hooks, methods or weights may have changed.
    """
    return None if reason_against_cpu(model) is not None else Decoder(model)
