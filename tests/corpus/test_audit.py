"""The audit of a split, against comparing everything with everything."""

import random
import re
from collections import Counter

import numpy as np
import pytest
from corpus_parts import split_of
from hypothesis import given, settings
from hypothesis import strategies as st

from minitx.config import DataConfig
from minitx.corpus import audit as audit_module
from minitx.corpus import read_corpus, split_corpus
from minitx.corpus.audit import LEAKED_FROM, audit, read_audit
from minitx.corpus.documents import Reading
from minitx.corpus.shared_windows import STRIDE, SURE, WINDOW, SharedWindows


def sentences(seed, n_words):
    """Words in no order, so that no two texts have much in common by chance."""
    choose = random.Random(seed)
    return " ".join("".join(choose.choices("abcdefghij", k=choose.randint(2, 9)))
                    for _ in range(n_words))  # fmt: skip


def windows_of(documents, size):
    return {doc[i : i + size] for doc in documents for i in range(len(doc) - size + 1)}


def covered_by_all(held, train, size):
    """Which bytes of the documents lie in a stretch of so many bytes that the train part has."""
    known = windows_of(train, size)
    covered = []
    for document in held:
        inside = np.zeros(len(document), bool)
        for i in range(len(document) - size + 1):
            if document[i : i + size] in known:
                inside[i : i + size] = True
        covered.append(inside)
    return np.concatenate(covered)


def ends_of(documents):
    return np.cumsum([len(document) for document in documents], dtype=np.int64)


def looked_up(held, train, block):
    windows = SharedWindows(np.frombuffer(b"".join(held), np.uint8), ends_of(held))
    text, limits = b"".join(train), ends_of(train)
    for start in range(0, len(text), block):
        piece = np.frombuffer(text[start : start + block + WINDOW - STRIDE], np.uint8)
        windows.look_up(piece, start, limits)
    return windows


documents = st.lists(st.binary(min_size=1, max_size=120), min_size=1, max_size=6)


@settings(max_examples=120, deadline=None)
@given(
    held=documents, train=documents, shared=st.binary(min_size=40, max_size=150),
    where=st.lists(st.integers(0, 150), min_size=2, max_size=2), block=st.integers(4, 30),
)  # fmt: skip
def test_stretches_in_common_are_found_whatever_their_place(held, train, shared, where, block):
    held[0] = held[0][: where[0]] + shared + held[0][where[0] :]
    train[-1] = train[-1][: where[1]] + shared + train[-1][where[1] :]
    windows = looked_up(held, train, block * STRIDE)
    text, other = b"".join(held), b"".join(train)
    found = windows.stretches(np.frombuffer(other, np.uint8), ends_of(train))
    covered = found.covered(len(text))
    # All that is in stretches long enough to be sure, and nothing that is in none.
    assert not (covered_by_all(held, train, SURE) & ~covered).any()
    assert not (covered & ~covered_by_all(held, train, WINDOW)).any()
    for start, end, place in zip(found.start, found.end, found.place, strict=True):
        assert text[start:end] == other[place : place + end - start]


@pytest.mark.parametrize("n", [0, 1, WINDOW - 1, WINDOW, WINDOW + 1])
def test_short_texts_have_few_windows_or_none(n):
    text = bytes(range(200))
    windows = looked_up([text[:n]] if n else [], [text], 1 << 20)
    found = windows.stretches(np.frombuffer(text, np.uint8), ends_of([text]))
    assert found.covered(n).sum() == (n if n >= WINDOW else 0)
    assert found.place.tolist() == found.start.tolist()


def shingles(text, n=5):
    words = re.findall(r"\w+|[^\w\s]", text)
    return {tuple(words[i : i + n]) for i in range(max(1, len(words) - n + 1))}


def jaccard(one, other):
    return len(one & other) / len(one | other)


def leaked_documents(split, found):
    """Numbers of the documents of the holdout that a passage of `leaked` touches."""
    ends = split.holdout.table()["end"]
    starts = np.append(0, ends[:-1])
    return {
        i
        for i, (start, end) in enumerate(zip(starts, ends, strict=True))
        if any(first < end and start < last for first, last in found.leaked)
    }


def edited(text, choose, n_edits):
    words = text.split()
    for _ in range(n_edits):
        words[choose.randrange(len(words))] = "changed"
    return " ".join(words)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), n_edits=st.integers(0, 6))
def test_all_near_duplicates_of_comparing_all_pairs_are_found(tmp_path_factory, seed, n_edits):
    choose = random.Random(seed)
    train = [sentences(seed * 100 + i, choose.randint(16, 150)) for i in range(25)]
    held = [sentences(seed * 100 + 50 + i, choose.randint(16, 150)) for i in range(12)]
    held[::2] = [edited(choose.choice(train), choose, n_edits) for _ in held[::2]]
    split = split_of(tmp_path_factory.mktemp("split"), train, held)
    found = audit(split)
    similar = {
        i
        for i, text in enumerate(held)
        if max(jaccard(shingles(text), shingles(other)) for other in train) >= 0.7
    }
    leaked = leaked_documents(split, found)
    assert similar <= leaked <= set(range(0, 12, 2))
    if not n_edits:
        assert leaked == set(range(0, 12, 2))
    sizes = [len(text) for text in held]
    assert found.share == pytest.approx(sum(sizes[i] for i in leaked) / sum(sizes))


def test_pairs_name_the_worst_with_file_and_line(tmp_path):
    train = [f"{sentences(i, 100)}\n" for i in range(200)]
    held = [f"{sentences(i, 100)}\n" for i in range(200, 220)]
    held[3] = train[150].replace(" ", "  ", 1)
    held[7:9] = train[40:42]
    path = tmp_path / "my.txt"
    path.write_text("".join(train + held))
    data = DataConfig(corpus=(str(path),), holdout_fraction=0.09)
    split = split_corpus(read_corpus(data.corpus), data, tmp_path / "data")
    found = audit(split)
    assert [str(pair).split(": ")[:2] for pair in found.pairs] == [
        ["my.txt, line 208", "100% in my.txt, line 41"],
        ["my.txt, line 204", "99% in my.txt, line 151"],
    ]
    assert found.pairs[0].text == train[40][:80]
    assert found.longest.strip("\n") == "".join(train[40:42]).strip("\n")
    assert found.leaked
    assert not found.is_sample


def test_records_are_named_by_their_line(tmp_path):
    import json

    texts = [sentences(i, 60) for i in range(300)]
    texts += [f"{text} more" for text in texts[:30]]
    path = tmp_path / "notes.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    data = DataConfig(corpus=(str(path),))
    split = split_corpus(read_corpus(data.corpus, reading=Reading.of(data)), data, tmp_path / "d")
    found = audit(split)
    assert found.pairs
    for pair in found.pairs:
        one, other = (int(name.rsplit(":")[1]) for name in (pair.holdout, pair.train))
        assert abs(one - other) == 300


def test_equal_documents_are_found_however_short(tmp_path):
    split = split_of(tmp_path / "data", ["emma", "olivia", "ava"], ["mia", "ava"])
    found = audit(split)
    assert (found.leaked, found.share) == (((3, 6),), 0.5)
    assert not audit(split_of(tmp_path / "other", ["emma", "olivia"], ["mia", "ava"])).leaked


@pytest.mark.parametrize("block", [4096, 1 << 22])
def test_lines_of_both_parts_are_counted(tmp_path, monkeypatch, block):
    monkeypatch.setattr(audit_module, "_BLOCK", block)
    choose = random.Random(5)
    lines = [f"a line that stands in many texts, number {i}" for i in range(9)]
    parts = []
    for n in (300, 60):
        drawn = [choose.choice(lines) for _ in range(n)]
        text = [line for line in drawn for line in (line, sentences(choose.random(), 4), "short")]
        parts.append("\n".join(text) + "\n")
    found = audit(split_of(tmp_path / "data", *parts))
    counts = [Counter(part.split("\n")) for part in parts]
    for line, n in found.boilerplate:
        both = sum(count[line] for count in counts)
        # A line at the end of a block may be missed.
        assert both - len(parts[0]) // block <= n <= both
    assert len(found.boilerplate) == 5
    assert {line for line, _ in found.boilerplate} <= set(lines)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6), n=st.integers(12, 80), before=st.text("xyz\n\u00e9", max_size=50),
    after=st.text("xyz\u6587", max_size=50),
)  # fmt: skip
def test_the_longest_stretch_is_the_longest(tmp_path_factory, seed, n, before, after):
    shared = sentences(seed, n).replace("a", "\u00e9")
    train, held = f"1{before}Q{shared}R{after}2", f"3{after}S{shared}T{before}4"
    if len(shared.encode()) < SURE:
        return
    found = audit(split_of(tmp_path_factory.mktemp("split"), train, held))
    assert found.longest == shared
    assert found.copied_share >= len(shared.encode()) / len(held.encode())


def test_a_long_holdout_is_sampled_and_that_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(audit_module, "MOST_HOLDOUT", 40_000)
    monkeypatch.setattr(audit_module, "_STRETCH", 4_000)
    train = [f"{sentences(i, 60)}\n" for i in range(600)]
    held = [f"{sentences(i, 60)}\n" for i in range(1000, 1600)]
    held[::3] = [f"{text}and more\n" for text in train[::3]]
    split = split_of(tmp_path / "data", train, held)
    found = audit(split)
    compared = sum(end - start for start, end in found.compared)
    assert compared <= 45_000 < split.holdout.n_bytes
    assert found.is_sample
    assert found.sample == f"compared: {compared / 1e6:.1f} MB with 100% of the train part"
    assert found.share == pytest.approx(1 / 3, abs=0.1)
    assert all(any(a <= start < end <= b for a, b in found.compared) for start, end in found.leaked)
    monkeypatch.setattr(audit_module, "_BLOCK", 16_384)
    half = audit(split, most_train=split.train.n_bytes * 2 // 3)
    assert 0.3 < half.train_share <= 0.6
    assert half.share < 0.8 * found.share


def test_a_corpus_of_one_line_is_all_in_both_parts(tmp_path):
    line = "the same line of text, again and again and again\n"
    found = audit(split_of(tmp_path / "data", line * 20_000, line * 2_000))
    assert (found.share, found.copied_share) == (1.0, 1.0)
    assert found.boilerplate == ((line.strip(), 22_000),)
    assert found.longest.startswith(line)


def test_part_of_a_passage_is_no_leak(tmp_path):
    own, other = sentences(1, 160), sentences(2, 160)
    for share in (0.5, 0.9):
        cut = int(800 * share)
        split = split_of(tmp_path / str(share), own, own[:cut] + other[: 800 - cut])
        assert bool(audit(split).leaked) == (share >= LEAKED_FROM)


def test_it_is_kept_beside_the_corpus(tmp_path):
    split = split_of(tmp_path / "data", sentences(1, 300), sentences(1, 200))
    found = audit(split)
    found.save(split.directory)
    assert read_audit(split.directory) == found
    for content in ("{", "[]", '{"share": 0.1, "pairs": [], "needs": ""}'):
        (split.directory / "audit.json").write_text(content)
        assert read_audit(split.directory) is None
    assert audit(split_of(tmp_path / "none", "text")) is None


def test_progress_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(audit_module, "_BLOCK", 1024)
    split = split_of(tmp_path / "data", sentences(1, 1000), sentences(2, 100))
    told = []
    audit(split, progress=lambda done, total: told.append((done, total)))
    n_bytes = split.train.n_bytes
    assert told == [(min(n_bytes, i + 1024), n_bytes) for i in range(0, n_bytes, 1024)]
