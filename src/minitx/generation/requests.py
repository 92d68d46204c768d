"""What can be asked of a model: prompts that it can continue, settings that fit its vocabulary."""

from __future__ import annotations

from minitx.config import SamplingConfig
from minitx.errors import BadInputError
from minitx.model import Transformer
from minitx.tokenizer import Tokenizer


def prompt_ids(model: Transformer, tokenizer: Tokenizer, prompt: str) -> list[int]:
    """Ids of a prompt that the model can continue.

    Raises:
        BadInputError: it is empty, longer than the context, or has unknown characters.
    """
    ids: list[int] = tokenizer.encode(prompt).tolist()
    context = model.config.context_length
    if not ids:
        raise BadInputError(
            "the prompt is empty, and a model continues a text",
            r"Give one with --prompt, for example --prompt $'\n'",
        )
    if len(ids) > context:
        raise BadInputError(
            f"the prompt has {len(ids):,} tokens, and the context of this model is {context:,}",
            f"Shorten it to {context:,} tokens, or train with a larger --context",
        )
    return ids


def check_settings(model: Transformer, config: SamplingConfig) -> None:
    """Refuse settings that don't fit a model's vocabulary.

    Raises:
        BadInputError: naming the setting.
    """
    vocab_size = model.config.vocab_size
    if config.top_k is not None and config.top_k > vocab_size:
        raise BadInputError(
            f"top-k is {config.top_k}, and the vocabulary has {vocab_size:,} tokens",
            f"Choose --top-k from 1 to {vocab_size}",
        )
    for token in config.logit_bias:
        if not 0 <= token < vocab_size:
            raise BadInputError(
                f"logit bias names token {token}, and the vocabulary has {vocab_size:,}",
                f"Choose ids from 0 to {vocab_size - 1}",
            )
