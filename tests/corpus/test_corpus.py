import io
import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from corpus_parts import read, split_of, text_of
from hypothesis import given, settings
from hypothesis import strategies as st

from minitx.config import DataConfig
from minitx.corpus import (
    WindowSampler,
    encode_corpus,
    gather,
    load_encoded,
    read_corpus,
    require_one_window,
    split_corpus,
)
from minitx.corpus.readers.plain_text import PlainText
from minitx.corpus.training_windows import NO_TARGET, Windows, permuted
from minitx.errors import BadInputError, DamagedFileError
from minitx.tokenizer import train_tokenizer


def decode_text(content, name):
    return "".join(PlainText.text(io.BytesIO(content), name))


@pytest.fixture(autouse=True)
def _inside(inside):
    pass


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


# Reading


def test_one_file(inside):
    source = write(inside / "my text.txt", "a\r\nb\u00e9\n")
    assert read([source]) == ["a\r\nb\u00e9\n"]  # line ends are kept
    assert read_corpus([source]).name == "my-text"


def test_each_file_is_a_document(inside):
    sources = [write(inside / "b.txt", "two"), write(inside / "a.txt", "one\n"),
               write(inside / "c.txt", "three")]  # fmt: skip
    assert read(sources) == ["two", "one\n", "three"]


def test_directory_is_searched_in_order(inside):
    write(inside / "d/b.md", "2")
    write(inside / "d/a/z.txt", "1")
    write(inside / "d/.hidden/x.txt", "no")
    write(inside / "d/picture.png", b"\x89PNG\0")
    assert (read(["d"]), read_corpus(["d"]).name) == (["1", "2"], "d")


def test_glob(inside):
    write(inside / "x/2.txt", "b")
    write(inside / "x/1.txt", "a")
    assert read(["x/*.txt"]) == ["a", "b"]
    assert read(["**/*.txt"]) == ["a", "b"]


def test_file_whose_name_looks_like_a_glob(inside):
    assert read([write(inside / "a[1].txt", "text")]) == ["text"]


def test_standard_input():
    assert read(["-"], io.BytesIO(b"piped")) == ["piped"]
    assert read_corpus(["-"]).name == "stdin"
    with pytest.raises(BadInputError, match="no standard input"):
        read(["-"])


def test_embedded_default_is_english_and_always_the_same():
    assert read_corpus([]).name == "python-reference"
    (text,) = read([])
    assert len(text.encode()) > 300_000
    assert "statement" in text
    assert read([]) == [text]


def test_byte_order_mark_is_dropped_and_offsets_count_it():
    assert decode_text(b"\xef\xbb\xbfhi", "x") == "hi"
    with pytest.raises(BadInputError, match="byte 5 is 0xff"):
        decode_text(b"\xef\xbb\xbfhi\xff", "x")


@settings(max_examples=60, deadline=None)
@given(st.text(min_size=1), st.integers(0, 200))
def test_first_bad_byte_is_told(text, at):
    content = text.replace("\0", "").replace("\ufeff", "").encode()
    at = min(at, len(content))
    while at < len(content) and content[at] & 0xC0 == 0x80:
        at += 1  # not inside a character
    with pytest.raises(BadInputError, match=f"byte {at:,} is 0xff"):
        decode_text(content[:at] + b"\xff" + content[at:], "x")


def test_unreadable_file(inside):
    path = write(inside / "secret.txt", "x")
    Path(path).chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    with pytest.raises(BadInputError, match="can't be read"):
        read([path])


# Encoding

TRAIN = "the cat sat on the mat\n" * 30
HOLDOUT = "a dog \u00e9\u00e9\n" * 5


@pytest.mark.parametrize("kind", ["char", "word", "bpe"])
def test_ids_on_disk_are_those_of_the_tokenizer(inside, kind):
    tokenizer = train_tokenizer(TRAIN, kind, 280 if kind == "bpe" else 0)
    encoded = encode_corpus(split_of(inside / "data", TRAIN, HOLDOUT), tokenizer)
    assert encoded.train_ids.tolist() == tokenizer.encode(TRAIN).tolist()
    assert encoded.holdout_ids.tolist() == tokenizer.encode(HOLDOUT, "replace").tolist()
    assert text_of(encoded, "train") == TRAIN
    assert text_of(encoded, "holdout") == HOLDOUT
    assert encoded.holdout_beginning(7) == HOLDOUT[:7]
    assert encoded.holdout.bytes == len(HOLDOUT.encode())
    assert encoded.train.unknown == 0
    assert (encoded.holdout.unknown > 0) == (kind != "bpe")
    assert isinstance(encoded.train_ids, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        encoded.train_ids[0] = 1


def test_unchanged_corpus_is_not_encoded_again(inside, monkeypatch):
    tokenizer = train_tokenizer(TRAIN, "char", 0)
    encode_corpus(split_of(inside / "one", TRAIN, HOLDOUT), tokenizer)
    monkeypatch.setattr(type(tokenizer), "encode_documents", None)
    again = encode_corpus(split_of(inside / "one", TRAIN, HOLDOUT), tokenizer)
    linked = encode_corpus(
        split_of(inside / "two", TRAIN, HOLDOUT), tokenizer, [inside / "gone", inside / "one"]
    )
    assert again.train_ids.tolist() == linked.train_ids.tolist()
    assert (inside / "one/train.ids").samefile(inside / "two/train.ids")


def test_copied_where_links_are_not_allowed(inside, monkeypatch):
    tokenizer = train_tokenizer(TRAIN, "char", 0)
    encode_corpus(split_of(inside / "one", TRAIN, HOLDOUT), tokenizer)

    def refuse(*_):
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    linked = encode_corpus(split_of(inside / "two", TRAIN, HOLDOUT), tokenizer, [inside / "one"])
    assert text_of(linked, "train") == TRAIN
    assert not (inside / "one/train.ids").samefile(inside / "two/train.ids")


def test_changed_text_or_tokenizer_is_encoded_anew_and_links_are_left_alone(inside):
    tokenizer = train_tokenizer(TRAIN, "char", 0)
    one = encode_corpus(split_of(inside / "one", TRAIN, HOLDOUT), tokenizer)
    encode_corpus(split_of(inside / "two", TRAIN, HOLDOUT), tokenizer, [inside / "one"])
    changed = encode_corpus(split_of(inside / "two", TRAIN + "more", HOLDOUT), tokenizer)
    assert text_of(changed, "train").endswith("more")
    assert text_of(load_encoded(inside / "one"), "train") == TRAIN
    assert one.digest != changed.digest
    smaller = train_tokenizer(TRAIN, "char", 8)
    assert (
        encode_corpus(split_of(inside / "one", TRAIN, HOLDOUT), smaller).tokenizer_digest
        == smaller.digest
    )


def test_empty_holdout(inside):
    tokenizer = train_tokenizer("abc", "char", 0)
    encoded = encode_corpus(split_of(inside / "data", "abc", ""), tokenizer)
    assert len(encoded.holdout_ids) == 0
    assert text_of(encoded, "holdout") == ""


def test_large_vocabularies_take_four_bytes(inside):
    text = "".join(map(chr, range(0x4E00, 0x4E00 + 20_000))) + "".join(
        map(chr, range(0x20000, 0x20000 + 50_000))
    )
    tokenizer = train_tokenizer(text, "char", 0)
    encoded = encode_corpus(split_of(inside / "data", text, ""), tokenizer)
    assert encoded.train_ids.dtype == np.dtype("<u4")
    assert encoded.train_ids.tolist() == tokenizer.encode(text).tolist()


@pytest.mark.parametrize("damage", ["gone", "short", "json", "format", "dtype", "count", "key"])
def test_damaged_data_is_refused(inside, damage):
    encode_corpus(split_of(inside / "data", TRAIN, HOLDOUT), train_tokenizer(TRAIN, "char", 0))
    path = inside / "data/corpus.json"
    description = json.loads(path.read_text())
    if damage == "gone":
        (inside / "data/holdout.ids").unlink()
    elif damage == "short":
        (inside / "data/train.ids").write_bytes(b"\0" * 10)
    elif damage == "json":
        path.write_text("{")
    else:
        if damage == "format":
            description["format"] = 7
        elif damage == "dtype":
            description["dtype"] = "<f8"
        elif damage == "count":
            description["train"]["tokens"] = -1
        else:
            del description["holdout"]
        path.write_text(json.dumps(description))
    with pytest.raises(DamagedFileError, match=r"corpus\.json can't be used") as caught:
        load_encoded(inside / "data")
    assert "\n" not in str(caught.value)


def test_unwritable_directory(inside):
    (inside / "file").write_text("")
    with pytest.raises(BadInputError, match="can't be kept"):
        split_corpus(read_corpus([]), DataConfig(), inside / "file/data")


# Windows


def epoch_of(sampler, epoch):
    """Inputs and targets of an epoch of a text in which each id is its position."""
    windows = sampler.windows(epoch * sampler.per_epoch, sampler.per_epoch)
    return windows, *gather(np.arange(sampler._n_targets + 1), windows, sampler._context_length)


@settings(max_examples=150, deadline=None)
@given(n=st.integers(2, 300), context=st.integers(1, 40), seed=st.integers(0, 2**63 - 1))
def test_each_token_but_the_first_is_a_target_once_an_epoch(n, context, seed):
    if n < context + 1:
        with pytest.raises(BadInputError, match=f"one context needs {context + 1}"):
            WindowSampler(n, context, seed)
        return
    sampler = WindowSampler(n, context, seed)
    assert sampler.per_epoch <= -(-(n - 1) // context) + 1
    for epoch in range(3):
        _, inputs, targets = epoch_of(sampler, epoch)
        learned = targets[targets != NO_TARGET]
        assert sorted(learned.tolist()) == list(range(1, n))
        assert (learned == inputs[targets != NO_TARGET] + 1).all()
        # No window is without a target, whose mean loss would be NaN.
        assert (targets != NO_TARGET).any(axis=1).all()


@settings(max_examples=60, deadline=None)
@given(first=st.integers(0, 400), cuts=st.lists(st.integers(1, 50), max_size=8))
def test_sample_does_not_depend_on_how_it_was_reached(first, cuts):
    sampler = WindowSampler(503, 16, 7)
    whole = sampler.windows(first, sum(cuts)).starts
    parts, at = [], first
    for count in cuts:
        parts.extend(WindowSampler(503, 16, 7).windows(at, count).starts.tolist())
        at += count
    assert whole.tolist() == parts


def test_order_and_phase_change_with_epoch_and_seed():
    sampler = WindowSampler(5000, 16, 7)
    epochs = [tuple(epoch_of(sampler, epoch)[0].first) for epoch in range(8)]
    assert len(set(epochs)) == 8
    phases = Counter(first % 16 for epoch in epochs for first in epoch[:1])
    assert len(phases) > 2
    assert tuple(epoch_of(WindowSampler(5000, 16, 8), 0)[0].first) not in epochs


@pytest.mark.parametrize(("n", "context"), [(191, 64), (767, 256), (1535, 512), (40, 16)])
def test_a_token_is_seen_at_many_positions_of_a_window(n, context):
    sampler = WindowSampler(n, context, 1)
    positions = set()
    for epoch in range(1000):
        _, _, targets = epoch_of(sampler, epoch)
        positions.update(np.flatnonzero((targets == n // 2).any(axis=0)).tolist())
    assert len(positions) >= context // 3


def order_of(size, seed):
    keys = np.random.default_rng(seed).integers(2**63, size=6, dtype=np.uint64)
    return permuted(np.arange(size), size, keys)


def test_the_order_is_a_permutation():
    for size in range(1, 2001):
        assert (np.bincount(order_of(size, size), minlength=size) == 1).all(), size


@pytest.mark.parametrize("size", [7, 50, 300, 2000, 40_000])
def test_the_order_looks_random(size):
    orders = np.array([order_of(size, seed) for seed in range(max(20, 20_000 // size))])
    numbers = np.arange(size)
    moved = np.abs(orders - numbers).mean()
    assert moved == pytest.approx((size * size - 1) / (3 * size), rel=0.04)
    correlations = [np.corrcoef(order[:-1], order[1:])[0, 1] for order in orders]
    assert np.mean(correlations) == pytest.approx(-1 / (size - 1), abs=0.04)
    # As many stay where they are, and as many are followed by the next, as in any permutation: one.
    assert (orders == numbers).sum(axis=1).mean() == pytest.approx(1, abs=0.75)
    assert (np.diff(orders) == 1).sum(axis=1).mean() == pytest.approx(1, abs=0.75)


def test_windows_of_a_long_text_are_where_those_of_a_whole_epoch_are():
    """An epoch of 10,001 blocks, more than are computed at once; and the epochs about it."""
    sampler = WindowSampler(20_002, 2, 5)
    for epoch in (0, 1, 2**40):
        _, _, targets = epoch_of(sampler, epoch)
        assert (np.bincount(targets[targets != NO_TARGET])[1:] == 1).all()
        begin = epoch * sampler.per_epoch
        for at in (0, 4095, 4096, 8191, sampler.per_epoch - 1):
            one = WindowSampler(20_002, 2, 5).windows(begin + at, 2)
            many = sampler.windows(begin, at + 2)
            assert one.first.tolist() == many.first[at:].tolist()
            assert one.last.tolist() == many.last[at:].tolist()


def test_processes_that_share_a_batch_have_a_part_each():
    batch = WindowSampler(503, 16, 7).windows(5 * 24, 24)
    parts = [WindowSampler(503, 16, 7).windows(5 * 24 + rank * 8, 8) for rank in range(3)]
    assert batch.starts.tolist() == [start for part in parts for start in part.starts.tolist()]


def test_the_orders_of_earlier_versions_are_kept():
    sampler = WindowSampler(100, 16, 7, data_order=1)
    assert sampler.windows(0, 14).starts.tolist() == [
        34, 66, 18, 50, 2, 27, 75, 11, 59, 43, 16, 48, 64, 32
    ]  # fmt: skip
    second = WindowSampler(100, 16, 7, data_order=2).windows(0, 14).starts.tolist()
    assert second == [34, 66, 18, 50, 2, 32, 80, 16, 64, 48, 16, 48, 64, 32]
    for order in (1, 2):
        windows = WindowSampler(100, 16, 7, data_order=order).windows(0, 14)
        _, targets = gather(np.arange(100), windows, 16)
        assert (targets != NO_TARGET).all()


def test_targets_follow_their_inputs():
    ids = np.arange(100, dtype=np.uint16)
    windows = Windows(np.array([3, 50]), np.array([4, 52]), np.array([7, 53]))
    inputs, targets = gather(ids, windows, 4)
    assert inputs.tolist() == [[3, 4, 5, 6], [50, 51, 52, 53]]
    assert targets.tolist() == [[4, 5, 6, 7], [NO_TARGET, 52, 53, NO_TARGET]]
    assert inputs.dtype == targets.dtype == np.int64


def test_short_text_names_the_context_that_fits():
    with pytest.raises(BadInputError, match="the train part has 5 tokens") as caught:
        require_one_window(5, 8, "the train part")
    assert "--context 4" in caught.value.fix
    with pytest.raises(BadInputError) as caught:
        require_one_window(1, 8, "it")
    assert "longer text" in caught.value.fix
