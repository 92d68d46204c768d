"""Where the answer of a model that chats ends."""

from __future__ import annotations

from dataclasses import replace

from minitx.config import SamplingConfig
from minitx.tokenizer import Tokenizer


def ending_answers(
    config: SamplingConfig, tokenizer: Tokenizer, end_id: int | None
) -> SamplingConfig:
    """Settings with which an answer ends where the chat template of another program ends it.

    A model that was not tuned to answer names the end of a text (`end_id`) in its config alone.
    """
    template = tokenizer.template
    if template is None or template.end_id == end_id:
        return config
    return replace(config, stop_strings=(*config.stop_strings, tokenizer.piece(template.end_id)))
