"""The door to decoding: tokens of each text in, logits of what follows out, a cache in between.

All forms compute what `Transformer.forward` says; read that first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from minitx.fast.decode_native import NativeDecoder
from minitx.fast.decode_numpy import NumpyDecoder
from minitx.fast.decode_weights import DecodingCache
from minitx.fast.library import library
from minitx.fast.support import reason_against_cpu
from minitx.model import KVCache, Transformer


class Decoder:
    """Appends tokens to texts. To be used without gradients; made by `decoder`."""

    def __init__(self, model: Transformer) -> None:
        self._model = model
        self._native = None if library() is None else NativeDecoder(model)
        self._numpy: NumpyDecoder | None = None

    @property
    def engine(self) -> str:
        """What computes, in words."""
        return "NumPy (several texts: plain)" if self._native is None else "native"

    def feed(self, tokens: Sequence[int], cache: DecodingCache) -> Tensor:
        """Append a token to each row of a cache that has room for it.

        Returns:
            Logits of what follows, `(rows, vocab_size)`; overwritten by the next call.
        """
        if self._native is not None:
            return self._native.feed(tokens, cache)
        if len(tokens) == 1:
            if self._numpy is None:
                self._numpy = NumpyDecoder(self._model)
            return self._numpy.feed(tokens, cache)
        logits: Tensor = self._model(torch.tensor(tokens)[:, None], cache=cast(KVCache, cache))
        return logits[:, -1]

    def read(self, texts: Sequence[Sequence[int]], cache: DecodingCache) -> Tensor | None:
        """Append the tokens of a text, at least one, to each row of a cache that has room for them.

        Returns:
            Logits of what follows each, `(rows, vocab_size)`, which the next call may overwrite;
            None, and nothing is read, where the model itself reads as fast.

        Raises:
            IndexError: one is no token.
        """
        if self._native is None:
            return None
        size = self._model.config.vocab_size
        if not all(0 <= token < size for text in texts for token in text):
            raise IndexError(f"a prompt has a token that is not among the {size:,}")
        return self._native.read(texts, cache)


def decoder(model: Transformer) -> Decoder | None:
    """What reads tokens of a model in eval mode faster than it does; None if it must be run itself.

    A decoder is for the model as it is: ask again when hooks, methods or weights may have changed.
    """
    return None if reason_against_cpu(model) is not None else Decoder(model)
