"""BPE as SentencePiece has it, in models from elsewhere: Llama 2, Mistral, and others.

A space is part of a piece, written ``▁``, and one is put before a text. What no piece has is
spelled in bytes, ``<0xE2>`` (Kudo and Richardson 2018).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt

from minitx.tokenizer.base import Tokenizer

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


class SentencePieceTokenizer(Tokenizer):
    """A BPE of SentencePiece; as texts are not cut into words, each is encoded as one."""

    kind = "bpe"

    def decode(self, ids: Sequence[int] | npt.NDArray[np.integer]) -> str:
        """Turn ids into text, without the space that was put before it."""
        text = super().decode(ids)
        return text[self._begins_with_space and text.startswith(" ") :]

    @cached_property
    def _begins_with_space(self) -> bool:
        encoding = self.backend.encode("a", add_special_tokens=False)
        return encoding.tokens[0].startswith("▁")

    _may_cut = False

    def _pieces_of_turn(self, texts: Iterable[str]) -> Iterator[str]:
        # Cut, each part would get a space of its own.
        if text := "".join(texts):
            yield text

    def _bytes_of_entry(self, token_id: int, entry: str) -> bytes:
        if byte := _BYTE.fullmatch(entry):
            return bytes([int(byte[1], 16)])
        return entry.replace("▁", " ").encode("utf-8")
