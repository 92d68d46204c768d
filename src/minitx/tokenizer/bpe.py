"""Byte-level BPE: pieces of words, learned by merging frequent pairs; any text round-trips.

Sennrich et al. 2016 (merges), Radford et al. 2019, section 2.2 (over bytes). The vocabulary holds
all 256 bytes, so that nothing is unknown, and no text is normalized. Vocabulary entries are
strings, in which GPT-2 gives each byte a character of its own: bytes that Latin-1 prints stand for
themselves; the others, in order, take the characters from U+0100 on (a space is ``Ġ``, a line feed
``Ċ``).
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from functools import cached_property
from typing import Any

from tokenizers import Regex, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from minitx.errors import BadInputError
from minitx.tokenizer.base import END_OF_TEXT, Ids, Tokenizer
from minitx.tokenizer.chunks import LINE_END, LINE_START, Border, training_chunks
from minitx.tokenizer.known_words import WORTH_IT, KnownWords

LONGEST_PIECE = 64
"""Characters in a run before it is cut: without a limit, a line of a million dashes would be one
word, and merging it would take minutes."""

_RUN = f"{{1,{LONGEST_PIECE}}}"


def _pattern(letter: str, number: str, blank: str, mark: str, solid: str) -> str:
    # Merges never cross the pieces that this cuts a text into. Every character matches one of the
    # alternatives, and no alternative goes on after a line end (see `chunks.LINE_START`).
    return "|".join(
        [
            rf"[ '’]?{letter}{_RUN}",  # a word with the space before it; 't, 's
            rf" ?{number}{{1,3}}",  # digits, by threes
            rf" ?{mark}{_RUN}[\r\n]{{0,8}}",  # punctuation, with the line end
            rf"[\r\n]{_RUN}",  # empty lines
            rf"{blank}{_RUN}(?= {solid})",  # indentation, but for the space that goes with the word
            rf"{blank}{_RUN}",
        ]
    )


PATTERN = _pattern(r"[\p{L}\p{M}]", r"\p{N}", r"[^\S\r\n]", r"[^\s\p{L}\p{M}\p{N}]", r"\S")

_PRINTED = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
_MOVED = [byte for byte in range(256) if byte not in _PRINTED]

CHARACTER_OF_BYTE: dict[int, str] = {
    **{byte: chr(byte) for byte in sorted(_PRINTED)},
    **{byte: chr(0x100 + i) for i, byte in enumerate(_MOVED)},
}
SMALLEST_VOCABULARY = len(CHARACTER_OF_BYTE) + 1

BYTE_OF_CHARACTER = {character: byte for byte, character in CHARACTER_OF_BYTE.items()}


class BytePairTokenizer(Tokenizer):
    """Byte-level BPE, ours or one from elsewhere (GPT-2's, for example)."""

    kind = "bpe"

    def _ids_of(self, texts: list[str]) -> list[Ids]:
        is_long = sum(map(len, texts)) >= WORTH_IT
        if is_long and self._border is LINE_START and not self._added:
            return self._known_words.ids(texts)
        return super()._ids_of(texts)

    @cached_property
    def _known_words(self) -> KnownWords:
        return KnownWords(_pattern, super()._ids_of)

    @cached_property
    def _added(self) -> Collection[int]:
        return self.backend.get_added_tokens_decoder()

    def _bytes_of_entry(self, token_id: int, entry: str) -> bytes:
        if token_id in self._added:
            return entry.encode("utf-8")
        return bytes(BYTE_OF_CHARACTER[character] for character in entry)

    @cached_property
    def _border(self) -> Border | None:
        content = json.loads(self.json_bytes)
        if content["normalizer"] or not all(map(_stays_in_word, content["added_tokens"])):
            return None
        first = content["pre_tokenizer"]
        if first["type"] == "Sequence":
            first = first["pretokenizers"][0]
        ours = {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated"}
        if {**first, **ours, "invert": False} == first:
            return LINE_START
        # Files from before the flag `use_regex` existed were cut so.
        cut_by_bytes = first["type"] == "ByteLevel" and first.get("use_regex", True)
        return LINE_END if cut_by_bytes and not first["add_prefix_space"] else None


def _stays_in_word(added: dict[str, Any]) -> bool:
    """Whether an added token, which is found before anything is cut, leaves white space alone."""
    reaches = any(added.get(flag) for flag in ("lstrip", "rstrip", "single_word"))
    return not reaches and not any(map(str.isspace, added["content"]))


def train_bpe(texts: Iterable[str], vocab_size: int) -> BytePairTokenizer:
    """Learn merges until the vocabulary has `vocab_size` ids, or no pair is left that repeats.

    The last id ends a document.

    Raises:
        BadInputError: `vocab_size` is below 257.
    """
    if vocab_size < SMALLEST_VOCABULARY:
        raise BadInputError(
            f"vocab_size is {vocab_size}, and byte-level BPE begins with the 256 bytes and the end "
            "of a document",
            f"Choose --vocab-size {SMALLEST_VOCABULARY} or more, or --kind char",
        )
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1,
        min_frequency=2,
        initial_alphabet=list(CHARACTER_OF_BYTE.values()),
        show_progress=False,
    )
    backend.train_from_iterator(training_chunks(texts, backend.pre_tokenizer), trainer)
    definition: dict[str, Any] = json.loads(backend.to_str())
    vocabulary = definition["model"]["vocab"]
    vocabulary[END_OF_TEXT] = len(vocabulary)
    return BytePairTokenizer(definition)
