"""Words as tokens: white space and punctuation are pieces too, so that nothing is lost between.

The most frequent pieces have an id; all others share the unknown token, the last id. To the
`tokenizers` library, whose model for this is WordLevel, a vocabulary of characters is one of words.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

from tokenizers import Regex, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from minitx.errors import BadInputError
from minitx.tokenizer.base import UNKNOWN, Tokenizer
from minitx.tokenizer.bpe import LONGEST_PIECE
from minitx.tokenizer.chunks import LINE_START, training_chunks

_RUN = f"{{1,{LONGEST_PIECE}}}"

PATTERN = "|".join([rf"\w{_RUN}", rf"[\r\n]{_RUN}", rf"[^\S\r\n]{_RUN}", r"[^\w\s]"])

_EVERY_WORD = 2**24


class WordTokenizer(Tokenizer):
    """One id a word, a run of white space or a punctuation mark."""

    kind = "word"
    _border = LINE_START

    def __init__(self, definition: dict[str, Any]) -> None:
        super().__init__(definition)
        self.unknown_id = self.backend.token_to_id(UNKNOWN)

    def unknown_characters(self, text: str) -> list[str]:
        """As in `Tokenizer`: the words that have no id."""
        cut = self.backend.pre_tokenizer
        chunks = training_chunks([text], cut)
        words = (word for chunk in chunks for word, _ in cut.pre_tokenize_str(chunk))
        return [word for word in dict.fromkeys(words) if self.backend.token_to_id(word) is None]

    @cached_property
    def _bytes_of(self) -> list[bytes]:
        return [
            ("\ufffd" if i == self.unknown_id else token).encode("utf-8")
            for i, token in enumerate(self._vocabulary())
        ]


def train_word(texts: Iterable[str], vocab_size: int) -> WordTokenizer:
    """Collect the most frequent words of a text, for `vocab_size` ids with the unknown token.

    Where two are as frequent, the first in code point order is kept. 0 keeps all.

    Raises:
        BadInputError: `vocab_size` leaves no word.
    """
    require_room(vocab_size, "word")
    backend = Backend(models.WordLevel(unk_token=UNKNOWN))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(PATTERN), "isolated")
    trainer = trainers.WordLevelTrainer(
        vocab_size=(vocab_size or _EVERY_WORD) - 1, min_frequency=1, show_progress=False
    )
    backend.train_from_iterator(training_chunks(texts, backend.pre_tokenizer), trainer)
    learned: dict[str, int] = json.loads(backend.to_str())["model"]["vocab"]
    return WordTokenizer(word_level_definition(sorted(learned, key=learned.__getitem__), PATTERN))


def require_room(vocab_size: int, piece: str) -> None:
    """Refuse a vocabulary that the unknown token fills; `piece` is for the error."""
    if vocab_size == 1:
        raise BadInputError(
            "vocab_size is 1, and the unknown token takes it",
            f"Choose --vocab-size 2 or more, or 0 for every {piece}",
        )


def word_level_definition(pieces: Sequence[str], pattern: str) -> dict[str, Any]:
    """Give each piece (a match of the pattern) its place as id, the last to the unknown token."""
    vocabulary = {piece: i for i, piece in enumerate([*pieces, UNKNOWN])}
    backend = Backend(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), "isolated")
    # Unknown text reads as U+FFFD in every tool that opens the file, not as a word "<unk>".
    backend.decoder = decoders.Sequence([decoders.Replace(UNKNOWN, "\ufffd"), decoders.Fuse()])
    definition: dict[str, Any] = json.loads(backend.to_str())
    return definition
