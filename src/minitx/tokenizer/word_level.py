"""A vocabulary of whole pieces, as a `tokenizer.json`: what `char` and `word` have in common."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from tokenizers import Regex, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Backend

from minitx.tokenizer.base import UNKNOWN


def word_level_definition(pieces: Sequence[str], pattern: str) -> dict[str, Any]:
    """Give each piece its place as id, and the last id to the unknown token.

    Args:
        pieces: distinct.
        pattern: a regular expression whose matches are the pieces of a text.
    """
    vocabulary = {piece: i for i, piece in enumerate([*pieces, UNKNOWN])}
    backend = Backend(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), "isolated")
    # Unknown text reads as U+FFFD in every tool that opens the file, not as a word "<unk>".
    backend.decoder = decoders.Sequence([decoders.Replace(UNKNOWN, "\ufffd"), decoders.Fuse()])
    definition: dict[str, Any] = json.loads(backend.to_str())
    return definition
