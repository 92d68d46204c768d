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
"""Characters in a run before it is cut where merges are learned: without a limit, a line of a
million dashes would be one word, and to merge in it would take minutes."""

PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
    r"|[^\r\n\p{L}\p{N}]?\p{L}+"  # a word with the character before it
    r"|\p{N}{1,3}"  # digits, by threes
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*"  # punctuation, with the line end
    r"|\s*[\r\n]+"  # empty lines
    r"|\s+(?!\S)|\s+"  # indentation, but for the space that goes with the word
)
"""Merges never cross the pieces that this cuts a text into. It is that of Llama 3, to the letter:
llama.cpp, and what is built on it, know a cut by its name and run no pattern from a file."""

QWEN2_PATTERN = PATTERN.replace("{1,3}", "")
GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

_RUN = f"{{1,{LONGEST_PIECE}}}"
EARLIER_PATTERN = "|".join(
    [
        rf"[ '’]?[\p{{L}}\p{{M}}]{_RUN}",
        r" ?\p{N}{1,3}",
        rf" ?[^\s\p{{L}}\p{{M}}\p{{N}}]{_RUN}[\r\n]{{0,8}}",
        rf"[\r\n]{_RUN}",
        rf"[^\S\r\n]{_RUN}(?= \S)",
        rf"[^\S\r\n]{_RUN}",
    ]
)
"""That of tokenizers of earlier versions."""

_BORDERS: dict[str | None, Border] = {
    **dict.fromkeys((PATTERN, QWEN2_PATTERN, GPT2_PATTERN), LINE_END),
    EARLIER_PATTERN: LINE_START,
}


def commonest_first(pattern: str) -> str:
    """A pattern of `_BORDERS` that matches the same, and tries what most pieces are before all."""
    return pattern if pattern == EARLIER_PATTERN else rf" ?\p{{L}}+|{pattern}"


SPELLS_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
"""The last step of a pre-tokenizer, after the cut."""

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
        if is_long and self._border and not self._added:
            return self._known_words.ids(texts)
        return super()._ids_of(texts)

    @cached_property
    def _known_words(self) -> KnownWords:
        assert self.pattern is not None
        return KnownWords(commonest_first(self.pattern), super()._ids_of)

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
        return _BORDERS.get(self.pattern)

    @cached_property
    def pattern(self) -> str | None:
        """The pattern whose matches no merge crosses; None where text is cut in another way."""
        step = json.loads(self.json_bytes)["pre_tokenizer"]
        first, *rest = step["pretokenizers"] if step["type"] == "Sequence" else [step]
        split = {"type": "Split", "behavior": "Isolated", "invert": False}
        if {**first, **split} == first and [{**step, **SPELLS_BYTES} for step in rest] == rest:
            return str(first["pattern"].get("Regex"))
        # Files from before the flag `use_regex` existed were cut so.
        cut_by_bytes = first["type"] == "ByteLevel" and first.get("use_regex", True)
        return GPT2_PATTERN if cut_by_bytes and not rest and not first["add_prefix_space"] else None


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
    backend.pre_tokenizer = cut_by(PATTERN.replace("+", _RUN).replace("*", _RUN.replace("1", "0")))
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1,
        min_frequency=2,
        initial_alphabet=list(CHARACTER_OF_BYTE.values()),
        show_progress=False,
    )
    chunks = training_chunks(texts, backend.pre_tokenizer, LINE_END)
    backend.train_from_iterator(chunks, trainer)
    backend.pre_tokenizer = cut_by(PATTERN)
    definition: dict[str, Any] = json.loads(backend.to_str())
    # As Llama 3 does: a piece that is an entry is that token, whatever its merges.
    definition["model"]["ignore_merges"] = True
    vocabulary = definition["model"]["vocab"]
    vocabulary[END_OF_TEXT] = len(vocabulary)
    return BytePairTokenizer(definition)


def cut_by(pattern: str) -> pre_tokenizers.PreTokenizer:
    """Cut a text into the matches of a pattern, and spell their bytes."""
    spelling = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), spelling])
