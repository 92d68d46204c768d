import numpy as np
import pytest

from minitx.evaluation.arrays import GroupedSums
from minitx.evaluation.breakdown import (
    CLASS_GROUPS,
    CLASSES,
    FREQUENCIES,
    TokenClasses,
    frequency_groups,
    group_losses,
)
from minitx.tokenizer import train_tokenizer

TEXT = "The cat's 12 lives,\n\nall über — spent! $5 ½ \u0301"


def classes_of(kind, text=TEXT, vocab_size=0):
    tokenizer = train_tokenizer(text, kind, vocab_size)
    ids = tokenizer.encode(text)
    found = TokenClasses(tokenizer).of(ids[1:], ids[:-1])
    return [(tokenizer.piece(int(i)), CLASSES[c]) for i, c in zip(ids[1:], found, strict=True)]


def test_characters():
    found = classes_of("char")
    assert found[:4] == [("h", "in-word"), ("e", "in-word"), (" ", "space"), ("c", "new word")]
    by_piece = {}
    for piece, name in found:
        by_piece.setdefault(piece, set()).add(name)
    assert by_piece["'"] == by_piece[","] == by_piece["—"] == by_piece["$"] == {"punctuation"}
    assert by_piece["1"] == by_piece["½"] == {"digit"}
    assert by_piece["\n"] == {"space"}
    # After an apostrophe, a letter begins anew; a letter after a letter does not.
    assert by_piece["s"] == {"new word", "in-word"}
    assert by_piece["ü"] == {"new word"}
    assert by_piece["\u0301"] == {"other"}


def test_words():
    found = dict(classes_of("word"))
    assert found["cat"] == "new word"
    assert found["lives"] == "new word"
    assert found["12"] == "digit"


def test_byte_pairs_with_spaces_and_parts_of_characters():
    text = "the theme then " * 30 + "日本語 ∑∏ "
    tokenizer = train_tokenizer(text, "bpe", 262)
    ids = tokenizer.encode(text)
    classes = TokenClasses(tokenizer)
    found = classes.of(ids[1:], ids[:-1])
    names = {tokenizer.piece(int(i)): CLASSES[c] for i, c in zip(ids[1:], found, strict=True)}
    assert names[" the"] == "new word"
    assert {names[p] for p in names if p.startswith("<0x")} <= {"other"}


def test_an_unknown_token_is_of_no_class():
    tokenizer = train_tokenizer("abc", "char", 0)
    ids = tokenizer.encode("aXb", unknown="replace")
    found = TokenClasses(tokenizer).of(ids[1:], ids[:-1])
    assert [CLASSES[c] for c in found] == ["other", "new word"]


def test_sums_by_group():
    counter = GroupedSums(3)
    counter.add(np.array([0, 2, 0]), np.array([1.0, 4.0, 2.0], np.float32))
    counter.add(np.array([2]), np.array([1.0], np.float32))
    first, second = group_losses(counter, {"a": (0,), "b": (1,), "c": (2,)})
    assert (first.name, first.tokens, first.loss) == ("a", 2, 1.5)
    assert (second.name, second.tokens, second.loss) == ("c", 2, 2.5)
    assert (first.share, first.share_of_loss) == (0.5, pytest.approx(3 / 8))


def test_letters_are_their_two_kinds_together():
    counter = GroupedSums(len(CLASSES))
    counter.add(np.array([0, 1, 2, 2, 4]), np.array([1, 6, 2, 1, 5], np.float32))
    found = group_losses(counter, CLASS_GROUPS)
    assert [one.name for one in found] == ["space", "letter", "new word", "in-word", "punctuation"]
    letter = found[1]
    assert (letter.tokens, letter.loss) == (3, 3.0)
    assert letter.share == pytest.approx(0.6)
    assert letter.share_of_loss == pytest.approx(9 / 15)
    only_space = GroupedSums(len(CLASSES))
    only_space.add(np.array([0]), np.array([1], np.float32))
    assert [one.name for one in group_losses(only_space, CLASS_GROUPS)] == ["space"]


def test_frequency_groups_go_by_what_the_commoner_ones_make_up():
    counts = np.array([0, 500, 300, 150, 35, 10, 5, 0])
    groups = [FREQUENCIES[g][0] for g in frequency_groups(counts)]
    assert groups == [
        "never seen", "the commonest half", "next 40 %", "next 40 %", "next 9 %", "next 9 %",
        "rarest 1 %", "never seen",
    ]  # fmt: skip


def test_one_token_that_is_all_of_the_text():
    assert frequency_groups(np.array([7])).tolist() == [0]
    assert frequency_groups(np.array([0, 0])).tolist() == [4, 4]
