"""What goes in comes out: any text for BPE; for the others, any text of known pieces."""

import re

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from minitx.errors import BadInputError
from minitx.tokenizer import train_tokenizer
from minitx.tokenizer.bpe import BYTE_OF_CHARACTER, CHARACTER_OF_BYTE

TRAINING = (
    "The quick brown fox doesn't jump; 12345 lazy dogs do!\r\n\r\n\tIndented  text,\n\n\n"
    "naïve café — “quoted” 中文 and 👩‍💻 more more more.\n   \n end"
) * 3
ALPHABET = sorted(set(TRAINING))
BPE = train_tokenizer(TRAINING, "bpe", 320)
CHAR = train_tokenizer(TRAINING, "char", 0)
WORD = train_tokenizer(TRAINING, "word", 0)
EVERY = [BPE, CHAR, WORD]

# Text that tries pre-tokenizers: spaces and line ends of all sorts, contractions, marks.
awkward = st.lists(
    st.one_of(
        st.text(max_size=6),
        st.sampled_from([" ", "  ", "\n", "\r\n", "\t", "\u2028", "\x85", "'s", "’t", "e\u0301"]),
        st.sampled_from(
            ["\ufeff", "\x00", "\x1b[0m", "<unk>", "<|endoftext|>", "Ġ", "中", "👩‍💻", "0123456789"]
        ),
    ),
    max_size=20,
).map("".join)


@given(awkward)
@settings(deadline=None, max_examples=300)
def test_bpe_round_trips_any_text(text):
    ids = BPE.encode(text)
    assert BPE.decode(ids) == text
    assert b"".join(BPE.token_bytes(int(i)) for i in ids) == text.encode()
    assert BPE.unknown_characters(text) == []


@given(awkward)
@settings(deadline=None, max_examples=200)
def test_bpe_decodes_as_the_library_does_even_half_characters(text):
    ids = BPE.encode(text)
    for part in (ids, ids[1:], ids[:-1], ids[::2]):
        assert BPE.decode(part) == BPE.backend.decode(part.tolist(), skip_special_tokens=False)


@pytest.mark.parametrize("tokenizer", [CHAR, WORD], ids=["char", "word"])
@given(st.text(alphabet=ALPHABET + list("ßž\ufffd\U0010ffff")))
@settings(deadline=None, max_examples=200)
def test_what_is_unknown_is_replaced_and_the_rest_is_exact(tokenizer, text):
    ids = tokenizer.encode(text, unknown="replace")
    decoded = tokenizer.decode(ids)
    assert decoded == tokenizer.backend.decode(ids.tolist())
    unknown = tokenizer.unknown_characters(text)
    if not unknown:
        assert decoded == text
        assert (ids != tokenizer.unknown_id).all()
    else:
        assert (ids == tokenizer.unknown_id).any()
        with pytest.raises(BadInputError):
            tokenizer.encode(text)
    if tokenizer is CHAR:
        lost = [c for c in text if c not in ALPHABET]
        assert int((ids == tokenizer.unknown_id).sum()) == len(lost)
        assert unknown == list(dict.fromkeys(lost))
        assert decoded == "".join("\ufffd" if c in lost else c for c in text)


@given(awkward)
@settings(deadline=None, max_examples=200)
def test_the_character_table_equals_the_library(text):
    expected = CHAR.backend.encode(text, add_special_tokens=False).ids
    assert CHAR.encode(text, unknown="replace").tolist() == expected
    assert CHAR.decode(expected) == CHAR.backend.decode(expected)


@given(awkward)
@settings(deadline=None, max_examples=200)
def test_word_pieces_never_mix_words_space_and_punctuation(text):
    tokenizer = train_tokenizer(text, "word", 0)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    for piece in (tokenizer.token_bytes(int(i)).decode() for i in ids):
        assert len(piece) == 1 or piece.isspace() or not re.search(r"\s", piece)


def test_words_as_a_reader_would_cut_them():
    pieces = [WORD.piece(int(i)) for i in WORD.encode("The fox doesn't,\n\n\n  jump")]
    assert pieces == ["The", " ", "fox", " ", "doesn", "'", "t", ",", "\n\n\n", "  ", "jump"]


def test_the_byte_alphabet_is_the_library_s():
    from tokenizers import pre_tokenizers

    assert sorted(CHARACTER_OF_BYTE.values()) == sorted(pre_tokenizers.ByteLevel.alphabet())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    for character in ["\x00", " ", "\n", "\x7f", "é", "ÿ", "\xad", "中", "👩"]:
        ((shown, _),) = byte_level.pre_tokenize_str(character)
        assert bytes(BYTE_OF_CHARACTER[c] for c in shown) == character.encode()


@pytest.mark.parametrize("tokenizer", EVERY, ids=["bpe", "char", "word"])
def test_empty_and_types(tokenizer):
    ids = tokenizer.encode("")
    assert ids.dtype == np.int32
    assert ids.shape == (0,)
    assert tokenizer.decode(ids) == ""
    assert tokenizer.decode(np.array([], dtype=np.int64)) == ""
    ids = tokenizer.encode("more more")
    assert ids.dtype == np.int32
    assert tokenizer.decode(ids.tolist()) == tokenizer.decode(ids.astype(np.uint16)) == "more more"
    assert int(ids.max()) < tokenizer.vocab_size


@pytest.mark.parametrize("tokenizer", EVERY, ids=["bpe", "char", "word"])
@pytest.mark.parametrize("wrong", [-1, 10_000, 2**31, 2**64, -(2**70)])
def test_ids_outside_the_vocabulary_are_refused(tokenizer, wrong):
    for use in (lambda: tokenizer.decode([0, wrong]), lambda: tokenizer.token_bytes(wrong),
                lambda: tokenizer.piece(wrong)):  # fmt: skip
        with pytest.raises(BadInputError, match=f"0 to {tokenizer.vocab_size - 1}"):
            use()


@pytest.mark.parametrize("tokenizer", EVERY, ids=["bpe", "char", "word"])
def test_a_lone_surrogate_is_an_error_of_one_line(tokenizer):
    with pytest.raises(BadInputError, match=r"U\+D83D") as caught:
        tokenizer.encode("more \ud83d more")
    str(caught.value).encode()
    assert "\n" not in str(caught.value)


def test_pieces_show_half_characters_as_bytes():
    plain = train_tokenizer("aa", "bpe", 257)
    pieces = [plain.piece(int(i)) for i in plain.encode("é€ \n")]
    assert pieces == ["<0xC3>", "<0xA9>", "<0xE2>", "<0x82>", "<0xAC>", " ", "\n"]
    assert plain.decode(plain.encode("é")[:1]) == "\ufffd"
    assert plain.token_bytes(int(plain.encode("é")[0])) == b"\xc3"


def test_pieces_of_the_unknown():
    for tokenizer in (CHAR, WORD):
        assert tokenizer.unknown_id == tokenizer.vocab_size - 2
        assert tokenizer.piece(tokenizer.unknown_id) == "<unk>"
        assert tokenizer.token_bytes(tokenizer.unknown_id) == "\ufffd".encode()
    assert BPE.unknown_id is None


def test_the_end_of_a_document_is_no_text_and_its_name_is_no_way_to_get_it():
    text = "a <|endoftext|> b <|endoftext|><|endoftext|>\n"
    for kind, size in (("bpe", 400), ("char", 0), ("word", 0)):
        tokenizer = train_tokenizer(text * 50, kind, size)
        end = tokenizer.end_id
        assert end == tokenizer.vocab_size - 1
        assert (tokenizer.piece(end), tokenizer.token_bytes(end)) == ("<|endoftext|>", b"")
        ids = tokenizer.encode(text)
        assert end not in ids
        assert tokenizer.decode([end, *ids, end]) == text


def test_the_name_of_the_unknown_token_is_no_way_to_get_it():
    text = "a <unk> b"
    for kind in ("char", "word"):
        tokenizer = train_tokenizer(text, kind, 0)
        ids = tokenizer.encode(text)
        assert tokenizer.unknown_id not in ids
        assert tokenizer.decode(ids) == text


def test_unseen_characters_are_named_with_the_fix():
    tokenizer = train_tokenizer("hello world", "char", 0)
    with pytest.raises(BadInputError) as caught:
        tokenizer.encode("héllo wörld é")
    assert str(caught.value) == (
        "the char tokenizer never saw 'é' (U+00E9), 'ö' (U+00F6) in its training text. "
        "Leave it out, or train with --kind bpe"
    )
    with pytest.raises(BadInputError, match="and 5 more"):
        tokenizer.encode("0123456789")
    with pytest.raises(BadInputError, match="'hell'"):
        train_tokenizer("hello world", "word", 0).encode("hell world")


@given(awkward)
@settings(deadline=None, max_examples=60)
def test_unknown_characters_beyond_a_character_table(text):
    assume(text)
    tokenizer = train_tokenizer(text, "char", 0)
    above = [c for c in ("\U0010ffff", "\x00", "ž") if c not in text]
    assert tokenizer.unknown_characters(text + "".join(above)) == above
