"""Words that were encoded before give the ids that the library gives for the text as a whole."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, pre_tokenizers

from minitx.tokenizer import known_words, train_tokenizer
from minitx.tokenizer.bpe import (
    EARLIER_PATTERN,
    GPT2_PATTERN,
    PATTERN,
    QWEN2_PATTERN,
    commonest_first,
)
from minitx.tokenizer.known_words import KnownWords

TEXT = (
    "The quick brown fox doesn't jump; 12345 lazy dogs do!\r\n\r\n\tIndented  text,\n\n\n"
    "naïve café — “quoted” 中文 and 👩‍💻 more more more.\n   \n end Größe по-русски \u0301x"
)
BPE = train_tokenizer(TEXT * 3, "bpe", 320)


def by_the_library(texts):
    encodings = BPE.backend.encode_batch(texts, add_special_tokens=False)
    return [np.asarray(encoding.ids, np.int32) for encoding in encodings]


def lengths_of_words(pattern):
    """How the library cuts texts; this shows in few ids of a small vocabulary."""
    cut = pre_tokenizers.Split(Regex(pattern), "isolated").pre_tokenize_str

    def lengths(texts):
        return [np.array([end - start for _, (start, end) in cut(t)], np.int32) for t in texts]

    return lengths


KNOWN = KnownWords(commonest_first(PATTERN), by_the_library)
PATTERNS = (PATTERN, QWEN2_PATTERN, GPT2_PATTERN, EARLIER_PATTERN)
CUT = {
    lengths: KnownWords(commonest_first(p), lengths)
    for p in PATTERNS
    for lengths in [lengths_of_words(p)]
}

pieces = st.one_of(
    st.text(max_size=6),
    st.sampled_from([" ", "  ", "\n", "\r\n", "\t", "\u2028", "\x85", "\xa0", "\x1c", "\u200b"]),
    st.sampled_from(["'s", "’t", "e\u0301", "x" * 70, "-" * 130, "\n" * 66, " " * 65, "Ġ", "中"]),
    st.sampled_from(
        ["0123456789", "½", "٣٤", "\u180e", "\u1c80", "👩‍💻", "\U0001f9ff", "\U00030000"]
    ),
)


@given(st.lists(st.lists(pieces, max_size=15).map("".join), max_size=5))
@settings(deadline=None, max_examples=300)
def test_ids_are_those_of_the_library(texts):
    for library, known in {by_the_library: KNOWN, **CUT}.items():
        for ids, expected in zip(known.ids(texts), library(texts), strict=True):
            np.testing.assert_array_equal(ids, expected)


@pytest.mark.parametrize("library", CUT, ids=["llama3", "qwen2", "gpt2", "earlier"])
def test_every_character_is_cut_as_the_library_cuts_it(library):
    # Each in a text of its own: one that is left to the library takes the others there with it. Of
    # the many that are alike, some.
    codes = {*range(0x800), 0x1680, 0x180E, *range(0x2000, 0x3100), *range(0x800, 0x20000, 23)}
    codes -= set(range(0xD800, 0xE000))
    texts = [f"a{c}b {c} 1{c}1\n{c}\n  {c}!{c}!" for c in map(chr, sorted(codes))]
    wrong = [
        text
        for text, ids, expected in zip(texts, CUT[library].ids(texts), library(texts), strict=True)
        if ids.tolist() != expected.tolist()
    ]
    assert not wrong


def test_few_characters_are_left_to_the_library():
    asked = []

    def noted(texts):
        asked.extend(texts)
        return by_the_library(texts)

    known = KnownWords(commonest_first(PATTERN), noted)
    known.ids([TEXT, TEXT])
    known.ids([TEXT])
    assert len(asked) == len(set(asked))
    assert max(map(len, asked)) < 10


def test_words_are_forgotten_where_there_are_many(monkeypatch):
    monkeypatch.setattr(known_words, "_MOST", 3)
    known = KnownWords(commonest_first(PATTERN), by_the_library)
    for text in (TEXT, "one two three four five", TEXT):
        np.testing.assert_array_equal(known.ids([text])[0], by_the_library([text])[0])
        assert len(known._known) <= 3


def test_a_long_text_is_encoded_by_its_words(monkeypatch):
    text = TEXT * 1000
    expected = by_the_library([text])[0]
    used = []
    ids_of = KnownWords.ids
    monkeypatch.setattr(KnownWords, "ids", lambda *args: used.append(1) or ids_of(*args))
    np.testing.assert_array_equal(BPE.encode(text), expected)
    assert used
