"""Bits per byte and per character: losses that compare across tokenizers.

A loss per token depends on what a token is. The same total, divided by the bytes of the text that
was scored, does not. The first token of a text has nothing before it and is not scored, so its
bytes are not counted either.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class TextSize:
    """How much text the scored tokens stand for.

    Attributes:
        n_bytes: of UTF-8.
        n_characters: of text.
    """

    n_bytes: int
    n_characters: int


def scored_size(text: str, first_token: bytes) -> TextSize:
    """Size of a text without its first token.

    Args:
        text: all that was encoded.
        first_token: bytes of its first token.
    """
    n_bytes = len(text.encode("utf-8")) - len(first_token)
    return TextSize(n_bytes, len(text) - len(first_token.decode("utf-8", "ignore")))


def bits_per(total_nats: float, n: int) -> float:
    """Bits for each of n units, from a total in nats; NaN for no units."""
    return total_nats / math.log(2) / n if n else math.nan
