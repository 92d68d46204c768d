"""Characters or words as tokens, which the `tokenizers` library calls WordLevel.

The most frequent pieces have an id; all others share the unknown token. It and the end of a
document are the last ids. Characters give the smallest vocabulary, in the order of code points, and
the longest sequences. With words, white space and punctuation are pieces too, so that nothing is
lost between.

Vocabulary entries spell the bytes of a piece as those of `bpe` do. Other programs then know the
text of each entry alone: transformers' `stop_strings` finds that of plain entries by encoding
"abcdef", which few of these vocabularies can. Files of earlier versions have plain entries.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from tokenizers import Regex, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from minitx.config.run_config import TokenizerKind
from minitx.errors import BadInputError
from minitx.tokenizer.base import END_OF_TEXT, UNKNOWN, Ids, Tokenizer
from minitx.tokenizer.bpe import BYTE_OF_CHARACTER, CHARACTER_OF_BYTE, LONGEST_PIECE
from minitx.tokenizer.chunks import ANYWHERE, LINE_START, training_chunks
from minitx.tokenizer.conversation import MARK, MARKS

_RUN = f"{{1,{LONGEST_PIECE}}}"

CHARACTER = r"[\s\S]"
WORD = "|".join([rf"\w{_RUN}", rf"[\r\n]{_RUN}", rf"[^\S\r\n]{_RUN}", r"[^\w\s]"])

_EVERY_WORD = 2**24
_SPECIAL = 2  # ids: the unknown token and the end of a document


class WordTokenizer(Tokenizer):
    """One id a word, a run of white space or a punctuation mark."""

    kind: ClassVar[TokenizerKind] = "word"
    pattern: ClassVar[str] = WORD
    _border = LINE_START

    def __init__(self, definition: dict[str, Any]) -> None:
        super().__init__(definition)
        self.unknown_id = self.backend.token_to_id(UNKNOWN)
        self._spells_bytes = len(definition["pre_tokenizer"].get("pretokenizers", ())) > 1

    def unknown_characters(self, text: str) -> list[str]:
        """As in `Tokenizer`: the words that have no id."""
        cut, text = self.backend.pre_tokenizer, MARK.sub("", text)
        chunks = training_chunks([text], cut)
        words = (word for chunk in chunks for word, _ in cut.pre_tokenize_str(chunk))
        unknown = [word for word in dict.fromkeys(words) if self.backend.token_to_id(word) is None]
        return [self._bytes_in(word).decode("utf-8") for word in unknown]

    def _bytes_of_entry(self, token_id: int, entry: str) -> bytes:
        return "\ufffd".encode() if token_id == self.unknown_id else self._bytes_in(entry)

    def _bytes_in(self, entry: str) -> bytes:
        """The text of an entry that the vocabulary has, or could have."""
        if self._spells_bytes:
            return bytes(BYTE_OF_CHARACTER[character] for character in entry)
        return entry.encode("utf-8")


class CharTokenizer(WordTokenizer):
    """One id a character; looked up in a table, which the library's own path is tested against."""

    kind = "char"
    pattern = CHARACTER
    _border = ANYWHERE

    def __init__(self, definition: dict[str, Any]) -> None:
        super().__init__(definition)
        pieces = {
            i: content.decode("utf-8")
            for i, content in enumerate(self._bytes_of)
            if i != self.end_id
        }
        if any(len(piece) != 1 for piece in pieces.values()):
            raise ValueError("its vocabulary has something else than characters")
        assert self.unknown_id is not None  # The vocabulary has it.
        self._code_of = np.full(self.vocab_size, ord("\ufffd"), dtype="<u4")
        self._code_of[list(pieces)] = [ord(piece) for piece in pieces.values()]
        known = np.array([i for i in pieces if i != self.unknown_id], dtype=np.int32)
        # One entry more than the highest code point: all above it are looked up there.
        highest = int(self._code_of[known].max(initial=0))
        self._id_of = np.full(highest + 2, self.unknown_id, dtype=np.int32)
        self._id_of[self._code_of[known]] = known

    def add_roles(self) -> None:
        """As in `Tokenizer`."""
        super().add_roles()
        marks = np.array([ord(MARKS[role]) for role in self.roles], dtype="<u4")
        self._code_of = np.concatenate([self._code_of, marks])

    def decode(self, ids: Sequence[int] | npt.NDArray[np.integer]) -> str:
        """As in `Tokenizer`."""
        checked = self._checked(ids)
        if self.end_id is not None:
            checked = checked[checked != self.end_id]
        return self._code_of[checked].tobytes().decode("utf-32-le")

    def unknown_characters(self, text: str) -> list[str]:
        """As in `Tokenizer`."""
        text = MARK.sub("", text)
        return [c for c in dict.fromkeys(text) if self._ids_of([c])[0][0] == self.unknown_id]

    def _ids_of(self, texts: list[str]) -> list[Ids]:
        codes = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), dtype="<u4")
        ids: Ids = self._id_of[np.minimum(codes, len(self._id_of) - 1)]
        return np.split(ids, np.cumsum([len(text) for text in texts[:-1]]))


def train_word(texts: Iterable[str], vocab_size: int) -> WordTokenizer:
    """Collect the most frequent words, for `vocab_size` ids with the two special ones.

    Where two are as frequent, the first in code point order is kept. 0 keeps all.

    Raises:
        BadInputError: `vocab_size` leaves no word.
    """
    _require_room(vocab_size, "word")
    backend = Backend(models.WordLevel(unk_token=UNKNOWN))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(WORD), "isolated")
    trainer = trainers.WordLevelTrainer(
        vocab_size=(vocab_size or _EVERY_WORD) - _SPECIAL, min_frequency=1, show_progress=False
    )
    backend.train_from_iterator(training_chunks(texts, backend.pre_tokenizer), trainer)
    learned: dict[str, int] = json.loads(backend.to_str())["model"]["vocab"]
    return WordTokenizer(_definition(sorted(learned, key=learned.__getitem__), WORD))


def train_char(texts: Iterable[str], vocab_size: int) -> CharTokenizer:
    """As `train_word`, of characters."""
    _require_room(vocab_size, "character")
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text)
    kept = sorted(counts, key=lambda character: (-counts[character], character))
    if vocab_size:
        kept = kept[: vocab_size - _SPECIAL]
    return CharTokenizer(_definition(sorted(kept), CHARACTER))


def _require_room(vocab_size: int, piece: str) -> None:
    """Refuse a vocabulary that special tokens fill; `piece` is for the error."""
    if 0 < vocab_size <= _SPECIAL:
        raise BadInputError(
            f"vocab_size is {vocab_size}, and the unknown token and the end of a document take "
            f"{_SPECIAL}",
            f"Choose --vocab-size {_SPECIAL + 1} or more, or 0 for every {piece}",
        )


def _definition(pieces: Sequence[str], pattern: str) -> dict[str, Any]:
    """Give each piece (a match of the pattern) its place as id, the last to the special tokens."""
    spelled = ["".join(CHARACTER_OF_BYTE[byte] for byte in piece.encode()) for piece in pieces]
    vocabulary = {entry: i for i, entry in enumerate([*spelled, UNKNOWN, END_OF_TEXT])}
    backend = Backend(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    cut = pre_tokenizers.Split(Regex(pattern), "isolated")
    spelling = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([cut, spelling])
    # Unknown text reads as U+FFFD in every tool that opens the file, not as a word "<unk>".
    backend.decoder = decoders.Sequence([decoders.Replace(UNKNOWN, "\ufffd"), decoders.ByteLevel()])
    definition: dict[str, Any] = json.loads(backend.to_str())
    return definition
