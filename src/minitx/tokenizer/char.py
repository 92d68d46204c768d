"""Characters as tokens: the smallest vocabulary, and the longest sequences.

Ids follow the code points, so that the vocabulary reads as an alphabet; the last id is the
unknown token, for characters that the train part never had.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from minitx.tokenizer.base import UNKNOWN, Ids, Tokenizer
from minitx.tokenizer.chunks import ANYWHERE
from minitx.tokenizer.word import require_room, word_level_definition

PATTERN = r"[\s\S]"


class CharTokenizer(Tokenizer):
    """One id a character; looked up in a table, which the library's own path is tested against."""

    kind = "char"

    def __init__(self, definition: dict[str, Any]) -> None:
        super().__init__(definition)
        vocabulary: dict[str, int] = definition["model"]["vocab"]
        unknown_id = vocabulary[UNKNOWN]
        self.unknown_id = unknown_id
        self._code_of = np.full(len(vocabulary), ord("\ufffd"), dtype="<u4")
        for character, i in vocabulary.items():
            if i != unknown_id:
                self._code_of[i] = ord(character)
        known = np.delete(np.arange(len(vocabulary), dtype=np.int32), unknown_id)
        # One entry more than the highest code point: all above it are looked up there.
        highest = int(self._code_of[known].max(initial=0))
        self._id_of = np.full(highest + 2, unknown_id, dtype=np.int32)
        self._id_of[self._code_of[known]] = known

    def decode(self, ids: Sequence[int] | npt.NDArray[np.integer]) -> str:
        """As in `Tokenizer`."""
        return self._code_of[self._checked(ids)].tobytes().decode("utf-32-le")

    def unknown_characters(self, text: str) -> list[str]:
        """As in `Tokenizer`."""
        return [c for c in dict.fromkeys(text) if self._ids_of([c])[0] == self.unknown_id]

    _border = ANYWHERE

    @cached_property
    def _bytes_of(self) -> list[bytes]:
        return [chr(code).encode("utf-8") for code in self._code_of]

    def _ids_of(self, texts: list[str]) -> Ids:
        codes = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), dtype="<u4")
        ids: Ids = self._id_of[np.minimum(codes, len(self._id_of) - 1)]
        return ids


def train_char(texts: Iterable[str], vocab_size: int) -> CharTokenizer:
    """Collect the most frequent characters of a text, for `vocab_size` ids with the unknown token.

    Where two are as frequent, the lower code point is kept. 0 keeps all.

    Raises:
        BadInputError: `vocab_size` leaves no character.
    """
    require_room(vocab_size, "character")
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text)
    kept = sorted(counts, key=lambda character: (-counts[character], character))
    if vocab_size:
        kept = kept[: vocab_size - 1]
    return CharTokenizer(word_level_definition(sorted(kept), PATTERN))
