"""Tokens of a prompt and where they stand in its text."""

from __future__ import annotations

from collections.abc import Sequence

from minitx.generation import Chosen
from minitx.generation.text_stream import TextStream
from minitx.serving.jobs import Told
from minitx.serving.places import place
from minitx.tokenizer import Tokenizer


def told_prompt(
    tokenizer: Tokenizer, ids: Sequence[int], text: str, scores: Sequence[Chosen | None]
) -> tuple[Told, ...]:
    """The tokens of a prompt with their places.

    Args:
        tokenizer: of the model.
        ids: of the prompt.
        text: of the prompt; no token begins after its end.
        scores: of each token.
    """
    stream, found = TextStream(), []
    for token, chosen in zip(ids, scores, strict=True):
        before, content = len(stream.text), tokenizer.token_bytes(token)
        stream.feed(content)
        at = place(content, before, len(stream.text))
        found.append(Told(token, min(at, len(text)), chosen))
    return tuple(found)
