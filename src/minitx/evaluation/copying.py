"""How much of what a model generates is copied from its train part.

Natural language repeats itself: the same measure (`common_passages`) on as much of the
holdout says how much copying to expect.
"""

from __future__ import annotations

import numpy as np

from minitx.config import SamplingConfig
from minitx.evaluation.arrays import IdArray
from minitx.generation import generate
from minitx.model import Transformer
from minitx.tokenizer import Tokenizer

MOST_TRAIN_BYTES = 64_000_000
"""Of the train part, the end that is searched."""

_STRETCHES = 8
_STRETCH_TOKENS = 160
_PROMPT_TOKENS = 16


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
