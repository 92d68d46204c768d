"""What is told of single tokens: where they begin in the text, and how likely they were."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from minitx.generation.chooser import describe
from minitx.generation.row import Chosen
from minitx.generation.text_stream import TextStream
from minitx.model import Transformer
from minitx.tokenizer import Tokenizer

_POSITIONS_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class TokenInfo:
    """A token of an answer.

    Attributes:
        offset: where it begins in the text of the answer, in characters.
        chosen: its probability and the alternatives; None if not asked for, or for the first
            token of a prompt.
    """

    id: int
    offset: int
    chosen: Chosen | None


def text_offset(content: bytes, before: int, after: int) -> int:
    """Where a token begins in the text, in characters.

    That may be later than the end of the text before it: if that text ended within a character
    which the token does not continue, U+FFFD is inserted for the character first.

    Args:
        content: bytes of the token.
        before: characters of the text before the token.
        after: characters with the token; fewer of its own if a stop string cut them.
    """
    try:
        n_characters = len(content.decode())
    except UnicodeDecodeError:
        return before
    return max(before, after - n_characters)


def prompt_tokens(
    model: Transformer, tokenizer: Tokenizer, ids: Sequence[int], text: str
) -> tuple[TokenInfo, ...]:
    """The tokens of a prompt, with their probabilities.

    Args:
        model, tokenizer: in eval mode.
        ids: of the prompt, at least one and at most the context.
        text: of the prompt; no token begins after its end.
    """
    stream, tokens = TextStream(), []
    for token, chosen in zip(ids, _probabilities(model, ids), strict=True):
        before, content = len(stream.text), tokenizer.token_bytes(token)
        stream.feed(content)
        offset = text_offset(content, before, len(stream.text))
        tokens.append(TokenInfo(token, min(offset, len(text)), chosen))
    return tuple(tokens)


@torch.inference_mode()
def _probabilities(model: Transformer, ids: Sequence[int]) -> list[Chosen | None]:
    """A record of each token given those before it; None for the first, which follows nothing."""
    records: list[Chosen | None] = [None]
    if len(ids) == 1:
        return records
    logits = model(torch.tensor([ids[:-1]], device=model.embedding.weight.device))[0]
    for start in range(0, len(ids) - 1, _POSITIONS_AT_ONCE):
        # In parts: in double precision all positions at once may not fit.
        part = logits[start : start + _POSITIONS_AT_ONCE]
        records += describe(part, ids[start + 1 : start + 1 + len(part)])
    return records
