import json
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minitx.config import TokenizeRequest
from minitx.errors import BadInputError
from minitx.tokenizer import train_tokenizer
from minitx.workflows import tokenize as workflow
from minitx.workflows.tokenize import open_tokenizer, parse_ids, tokenization, tokenize, train_on

TEXT = "the cat sat on the mat, naïvely\n" * 20


def test_figures_are_those_of_the_text():
    tokenizer = train_tokenizer("ab ", "char", 0)
    one = tokenization(tokenizer, "ab é ab", "replace")
    assert (one.n_tokens, one.n_bytes, one.n_words, one.n_unknown) == (7, 8, 3, 1)
    assert one.bytes_per_token == pytest.approx(8 / 7)
    assert one.fertility == pytest.approx(7 / 3)
    assert one.unknown_rate == pytest.approx(1 / 7)
    assert not one.round_trip
    assert tokenization(tokenizer, "ab ab").round_trip
    json.dumps(one.figures(), allow_nan=False)


@pytest.mark.parametrize("kind", ["bpe", "char", "word"])
def test_nothing_has_finite_figures(kind):
    tokenizer = train_tokenizer(TEXT, kind, 280 if kind == "bpe" else 0)
    one = tokenization(tokenizer, "")
    assert one.figures() == {
        "tokens": 0, "bytes": 0, "words": 0, "bytes_per_token": 0.0, "fertility": 0.0,
        "unknown_tokens": 0, "unknown_rate": 0.0, "round_trip": True,
    }  # fmt: skip


def test_only_the_train_part_trains(inside):
    (inside / "text.txt").write_text("a" * 90 + "Z" * 10)
    tokenizer, split, reasons = train_on(["text.txt"], {}, inside / "split")
    assert split.holdout.text() == "Z" * 10
    assert tokenizer.kind == "char"
    assert tokenizer.unknown_characters("aZ") == ["Z"]
    assert "kind" in reasons
    everything, _, _ = train_on(
        ["text.txt"], {"kind": "char"}, inside / "whole", {"holdout_fraction": 0.0}
    )
    assert everything.unknown_characters("aZ") == []


def test_of_a_long_corpus_the_beginning_is_shown(inside, monkeypatch):
    (inside / "text.txt").write_text("é" * 90 + "Z" * 10)
    train_on(["text.txt"], {}, inside / "split")[0].save(inside / "tokenizer")
    for request in (
        TokenizeRequest(("text.txt",)),
        TokenizeRequest(("text.txt",), tokenizer=inside / "tokenizer"),
    ):
        monkeypatch.setattr(workflow, "MOST_CHARACTERS", 100)
        whole = tokenize(request, sys.stdin).parts
        assert not any("beginning" in name for name in whole)
        monkeypatch.setattr(workflow, "MOST_CHARACTERS", 40)
        parts = tokenize(request, sys.stdin).parts
        name, part = next(iter(parts.items()))
        assert name.endswith(", its beginning")
        assert part.text == "é" * 40


def test_a_tokenizer_of_a_directory_or_of_a_run(inside, tiny_run):
    tokenizer = train_tokenizer(TEXT, "bpe", 280)
    tokenizer.save(inside / "mine")
    assert open_tokenizer(inside / "mine").digest == tokenizer.digest
    of_run = open_tokenizer(tiny_run)
    assert of_run.kind == "char"
    newest = max((tiny_run / "checkpoints").glob("step-*"))
    assert open_tokenizer(newest).digest == of_run.digest
    with pytest.raises(BadInputError, match="there is no run yet"):
        open_tokenizer(None)


@given(st.lists(st.integers(0, 2**31 - 1), min_size=1), st.sampled_from([" ", ",", ", ", "\n"]))
@settings(deadline=None, max_examples=60)
def test_ids_are_read_as_people_and_programs_write_them(ids, between):
    assert parse_ids(between.join(map(str, ids))) == ids
    assert parse_ids(json.dumps(ids)) == ids
    assert parse_ids("\n ".join(f"{i:04d}" for i in ids) + "\n") == ids


@pytest.mark.parametrize("text", ["", "  ", "[]", "one", "1.5", "-1", "1;2", "²", "٣", "0x1F"])
def test_what_is_no_id(text):
    with pytest.raises(BadInputError, match="Give numbers"):
        parse_ids(text)


def test_a_number_of_any_length_is_told_as_outside_the_vocabulary():
    tokenizer = train_tokenizer(TEXT, "char", 0)
    for text in ("9" * 10_000, "99999999999", "2147483648"):
        (wrong,) = parse_ids(text)
        with pytest.raises(BadInputError, match="not in the vocabulary"):
            tokenizer.decode([wrong])
    assert parse_ids("0" * 10_000 + "7") == [7]
