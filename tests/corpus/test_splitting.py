"""What is held out: the rules of the split, on corpora of any shape."""

import json

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from minitx.config import DataConfig
from minitx.corpus import read_corpus, split_corpus
from minitx.corpus.documents import Reading
from minitx.corpus.splitting import FEWEST_FOR_HASH
from minitx.errors import BadInputError

texts = st.text(st.characters(codec="utf-8", exclude_characters="\0\ufeff"), min_size=1)
documents = st.lists(texts.filter(str.strip), min_size=2, max_size=40)


def split_texts(directory, texts, **options):
    """Both parts as lists of documents, and the split, of a JSONL file of these texts."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "corpus.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    data = DataConfig(corpus=(str(path),), **options)
    split = split_corpus(read_corpus(data.corpus, reading=Reading.of(data)), data, directory / "d")
    return *(list(map("".join, part.documents())) for part in (split.train, split.holdout)), split


@settings(max_examples=60, deadline=None)
@given(documents, documents, st.integers(0, 2**63 - 1), st.floats(0.05, 0.9))
def test_a_hash_moves_no_document_and_parts_no_equals(tmp_path_factory, old, new, seed, fraction):
    def split(texts, name):
        options = {"split": "hash", "split_seed": seed, "holdout_fraction": fraction}
        return split_texts(tmp_path_factory.mktemp(name), texts, **options)

    try:
        (train, held, _), (more_train, more_held, _) = split(old, "one"), split(old + new, "two")
    except BadInputError:
        return  # All would be held out.
    # In order, none lost or doubled.
    for whole, parts in ((old, (train, held)), (old + new, (more_train, more_held))):
        sides = [[text for text in whole if text in part] for part in map(set, parts)]
        assert [list(part) for part in parts] == sides
        assert len(sides[0]) + len(sides[1]) == len(whole)
        assert not set(parts[0]) & set(parts[1])
    # What was added moved nothing, wherever it stands.
    assert set(train) <= set(more_train)
    assert set(held) <= set(more_held)
    backwards, _, _ = split(old[::-1], "three")
    assert backwards == train[::-1]


def test_equal_texts_are_split_at_their_tail_whatever_their_hash(tmp_path):
    n = FEWEST_FOR_HASH
    for seed in range(8):
        train, held, split = split_texts(
            tmp_path / str(seed), ["the same\n"] * n, split_seed=seed, holdout_fraction=0.5
        )
        assert (split.method, len(train), len(held)) == ("tail", n // 2, n // 2)


@pytest.mark.parametrize("fraction", [0.05, 0.1, 0.5])
def test_a_hash_holds_out_about_what_was_asked_for(tmp_path, fraction):
    shares = []
    for seed in range(5):
        _, held, _ = split_texts(
            tmp_path / str(seed), [f"text {i}" for i in range(4000)],
            split_seed=seed, holdout_fraction=fraction,
        )  # fmt: skip
        shares.append(len(held) / 4000)
    error = (fraction * (1 - fraction) / 4000) ** 0.5
    assert np.abs(np.array(shares) - fraction).max() < 4 * error
    assert len(set(shares)) > 1


def test_a_seed_chooses_other_documents(tmp_path):
    texts = [f"text {i}" for i in range(400)]
    held = [set(split_texts(tmp_path / str(seed), texts, split_seed=seed)[1]) for seed in (0, 1, 0)]
    assert held[0] == held[2]
    assert len(held[0] & held[1]) < len(held[0]) / 2


def test_few_documents_keep_their_tail_and_many_are_hashed(tmp_path):
    for n, method in ((FEWEST_FOR_HASH - 1, "tail"), (FEWEST_FOR_HASH, "hash")):
        _, _, split = split_texts(tmp_path / str(n), [f"text {i}\n" for i in range(n)])
        assert split.method == method


@settings(max_examples=60, deadline=None)
@given(st.lists(texts, min_size=1, max_size=30), st.floats(0.05, 0.9))
def test_one_long_text_keeps_its_tail_from_a_line_on(tmp_path_factory, lines, fraction):
    text = "\n".join(lines)
    assume(text.strip())
    directory = tmp_path_factory.mktemp("split")
    (directory / "text.txt").write_bytes(text.encode())
    data = DataConfig(corpus=(str(directory / "text.txt"),), holdout_fraction=fraction)
    try:
        split = split_corpus(read_corpus(data.corpus), data, directory / "d")
    except BadInputError:
        assert len(text) < 25 or fraction > 0.8
        return
    train, held = split.train.text(), split.holdout.text()
    assert train + held == text
    assert train
    assert held
    # At the first line from there on; else at the last before; else at a character.
    cut, asked = len(train.encode()), int(len(text.encode()) * (1.0 - fraction))
    starts = [i + 1 for i, byte in enumerate(text.encode()[:-1]) if byte == 10]
    later, sooner = [i for i in starts if i >= asked], [i for i in starts if i < asked]
    if later or sooner:
        assert cut == (later[0] if later else sooner[-1])
    else:
        assert asked - 3 <= cut <= asked


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from("abcdef"), min_size=3, max_size=60))
def test_dedup_keeps_the_first_of_each_in_order(tmp_path_factory, letters):
    texts = [f"document {letter}" for letter in letters]
    first = list(dict.fromkeys(texts))
    directory = tmp_path_factory.mktemp("split")
    train, held, split = split_texts(directory, texts, dedup=True, holdout_fraction=0.0)
    assert (train, held) == (first, [])
    assert dict(split.left_out) == (
        {"duplicates": len(texts) - len(first)} if len(first) < len(texts) else {}
    )
    # Each is still known by where it stood first.
    starts = np.append(0, split.train.table()["end"][:-1])
    names = [split.name_of(split.train, int(start)).rsplit(":")[-1] for start in starts]
    assert names == [str(texts.index(text) + 1) for text in first]


def test_dedup_finds_what_stands_in_another_file(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.txt").write_text("the same text in both\n" * 3)
    (tmp_path / "c.txt").write_text("another\n" * 9)
    data = DataConfig(corpus=(str(tmp_path / "*.txt"),), dedup=True, holdout_fraction=0.0)
    split = split_corpus(read_corpus(data.corpus), data, tmp_path / "d")
    assert split.left_out == (("duplicates", 1),)
    assert len(split.train.table()) == 2


@pytest.mark.parametrize("option", ["split", "holdout"])
def test_a_file_is_held_out_and_left_out_of_the_rest(tmp_path, monkeypatch, option):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "held.jsonl").write_text(
        "".join(json.dumps({"text": f"text {i}"}) + "\n" for i in range(5, 15))
    )
    train, held, split = split_texts(
        tmp_path / "x", [f"text {i}" for i in range(10)], **{option: "held.jsonl"}
    )
    assert train == [f"text {i}" for i in range(5)]
    assert held == [f"text {i}" for i in range(5, 15)]
    assert split.method == "held.jsonl"
    assert split.left_out == (("also in the holdout", 5),)
    with pytest.raises(BadInputError, match="nothing is left to train on without the holdout"):
        split_texts(tmp_path / "y", [f"text {i}" for i in range(5, 10)], **{option: "held.jsonl"})


def test_all_documents_alike_can_t_be_hashed_apart(tmp_path):
    with pytest.raises(BadInputError, match="too short to split by hash"):
        split_texts(tmp_path, ["same"] * 30, split="hash", holdout_fraction=0.9, split_seed=1)


def test_no_holdout_is_empty_in_silence(tmp_path):
    """Of some twenty documents, a hash may choose none."""
    methods = set()
    for seed in range(40):
        options = {"split_seed": seed, "holdout_fraction": 0.1}
        train, held, split = split_texts(
            tmp_path / str(seed), [f"text {i}\n" for i in range(FEWEST_FOR_HASH)], **options
        )
        assert train
        assert held
        methods.add(split.method)
        if split.method == "tail":
            with pytest.raises(BadInputError, match="too short to split by hash"):
                split_texts(
                    tmp_path / f"{seed} by hash", [f"text {i}\n" for i in range(FEWEST_FOR_HASH)],
                    split="hash", **options,
                )  # fmt: skip
    assert methods == {"hash", "tail"}
    with pytest.raises(BadInputError, match="too short to split by hash"):
        split_texts(tmp_path / "one", ["one\ntext\n"], split="hash", split_seed=1)
