"""How much of what a model generates is copied from its train part.

Natural language repeats itself: the same measure on as much of the holdout says how much copying to
expect.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from minitx.config import SamplingConfig
from minitx.corpus.shared_windows import SharedWindows
from minitx.evaluation.arrays import ByteArray, IdArray
from minitx.generation import generate
from minitx.model import Transformer
from minitx.tokenizer import Tokenizer

MOST_TRAIN_BYTES = 64_000_000
"""Of the train part, the end that is searched."""

_WINDOW, _STRIDE, _AT_ONCE = 24, 8, 1 << 22

COPY_BYTES = _WINDOW + _STRIDE - 1
"""Bytes from which on a shared stretch is always found; shorter ones are phrases that anyone may
use."""

_STRETCHES = 8
_STRETCH_TOKENS = 160
_PROMPT_TOKENS = 16


@dataclass(frozen=True)
class Copied:
    """What some texts share with the train part.

    Attributes:
        n_bytes: of the texts.
        copied_share: part of them that lies in shared stretches of about `COPY_BYTES` or more.
        longest, longest_bytes: the longest shared stretch, as text, and its length.
    """

    n_bytes: int
    copied_share: float
    longest: str
    longest_bytes: int


def find_copied(texts: Sequence[str], train: ByteArray) -> Copied:
    """Look for stretches of texts in the train part, `(bytes,)` of UTF-8, perhaps a memory map."""
    parts = [text.encode("utf-8", "replace") for text in texts]
    content, ends = b"".join(parts), np.cumsum([len(part) for part in parts], dtype=np.int64)
    windows = SharedWindows(np.frombuffer(content, np.uint8), ends, _WINDOW, _STRIDE)
    train_ends = np.array([len(train)])
    for start in range(0, len(train), _AT_ONCE):
        piece = np.asarray(train[start : start + _AT_ONCE + _WINDOW - _STRIDE])
        windows.look_up(piece, start, train_ends)
    shared = windows.stretches(train, train_ends)
    longest = windows.longest(shared, train, train_ends, len(content))
    share = float(shared.covered(len(content)).mean()) if content else 0.0
    return Copied(len(content), share, longest.decode("utf-8", "ignore"), len(longest))


def stretches(tokenizer: Tokenizer, ids: IdArray, length: int = _STRETCH_TOKENS) -> list[str]:
    """Evenly spaced pieces of a text, of `length` tokens each."""
    count = max(1, min(_STRETCHES, len(ids) // length))
    starts = [i * len(ids) // count for i in range(count)]
    return [tokenizer.decode(np.asarray(ids[start : start + length])) for start in starts]


def sample_texts(model: Transformer, tokenizer: Tokenizer, ids: IdArray) -> list[str]:
    """As much text from a model as `stretches` takes from `ids`; pieces of `ids` are prompts."""
    n_prompt_tokens = min(_PROMPT_TOKENS, max(1, model.config.context_length // 2))
    prompts = [
        prompt
        for prompt in stretches(tokenizer, ids, n_prompt_tokens)
        # A lone unknown character can't be continued, and its stand-in has no id.
        if prompt and not tokenizer.unknown_characters(prompt)
    ]
    if not prompts:
        return []
    config = SamplingConfig(max_new_tokens=_STRETCH_TOKENS, ignore_eos=True)
    return [sample.text for sample in generate(model, tokenizer, prompts, config)]
