"""Long texts: shards by any number of processes, nothing encoded twice, in pieces of any size."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import asdict

import numpy as np
import pytest
from corpus_parts import split_of

from minitx.config import DataConfig
from minitx.corpus import earlier as earlier_runs
from minitx.corpus import encode_corpus, encoded, read_corpus, shards, split_corpus
from minitx.corpus.part_text import PartText
from minitx.errors import BadInputError
from minitx.tokenizer import train_tokenizer

WORDS = ["the", "river", "runs", "past", "old mills", "where", "—", "über", "12345", "中文\n"]


def texts(n, seed):
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randrange(1, 80))) for _ in range(n)]


BPE = train_tokenizer(texts(50, 0), "bpe", 300)


@pytest.fixture(autouse=True)
def _short_shards(monkeypatch):
    for module in (shards, encoded):
        monkeypatch.setattr(module, "SHORTEST", 3_000)
    monkeypatch.setattr(shards, "LONGEST", 9_000)
    monkeypatch.setattr(shards, "WORTH_A_PROCESS", 0)
    monkeypatch.setattr(encoded, "ALWAYS_READ", 0)


def ids_of(documents):
    """By the library alone, text by text."""
    return [
        i for text in documents for i in [*BPE.backend.encode(text).ids, BPE.end_id]
    ]  # fmt: skip


@pytest.mark.parametrize("n_workers", [1, 2, 3])
def test_ids_are_those_of_each_text_for_any_number_of_processes(tmp_path, n_workers):
    train, holdout = texts(300, 1), texts(30, 2)
    split = split_of(tmp_path / "data", train, holdout)
    assert len(shards.plan_shards(split.train, BPE, True)) > 5
    told = []
    corpus = encode_corpus(split, BPE, (), n_workers, lambda *seen: told.append(seen))
    assert corpus.train_ids.tolist() == ids_of(train)
    assert corpus.holdout_ids.tolist() == ids_of(holdout)
    size = split.train.n_bytes + split.holdout.n_bytes
    assert told[-1] == (size, size)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_one_long_text_is_cut_into_shards_without_a_trace(tmp_path):
    text = " ".join(texts(300, 3))
    split = split_of(tmp_path / "data", text)
    assert len(shards.plan_shards(split.train, BPE, False)) > 3
    corpus = encode_corpus(split, BPE, (), 2)
    assert corpus.train_ids.tolist() == BPE.backend.encode(text).ids


def test_of_a_corpus_with_a_file_more_that_file_is_encoded(tmp_path, monkeypatch):
    old, new = texts(400, 4), texts(10, 5)
    encode_corpus(split_of(tmp_path / "old", old), BPE)
    made = []
    encode = shards.encode_shard
    monkeypatch.setattr(
        shards, "encode_shard", lambda part, *rest: made.append(rest[0]) or encode(part, *rest)
    )
    split = split_of(tmp_path / "new", [*old[:100], *new, *old[100:]])
    corpus = encode_corpus(split, BPE, [tmp_path / "old"])
    assert corpus.train_ids.tolist() == ids_of([*old[:100], *new, *old[100:]])
    assert 0 < sum(shard.n_bytes for shard in made) < 0.5 * split.train.n_bytes


def test_what_a_killed_encoding_left_is_used(tmp_path, monkeypatch):
    split = split_of(tmp_path / "data", texts(300, 6))
    encode, made = shards.encode_shard, []

    def killed(part, shard, *rest):
        if len(made) == 4:
            raise KeyboardInterrupt
        made.append(shard)
        return encode(part, shard, *rest)

    monkeypatch.setattr(shards, "encode_shard", killed)
    with pytest.raises(KeyboardInterrupt):
        encode_corpus(split, BPE)
    again = []
    monkeypatch.setattr(
        shards, "encode_shard", lambda part, *rest: again.append(rest[0]) or encode(part, *rest)
    )
    corpus = encode_corpus(split, BPE)
    assert corpus.train_ids.tolist() == ids_of(texts(300, 6))
    assert made
    assert not set(made) & set(again)


def test_what_is_damaged_of_a_killed_encoding_is_made_again(tmp_path, monkeypatch):
    split = split_of(tmp_path / "data", texts(300, 6))
    planned = shards.plan_shards(split.train, BPE, True)
    made = shards.encode_shards(planned, tmp_path / "data", BPE, tmp_path / "data/shards", 1, print)
    for shard, kind, content in zip(
        made, ("json", "json", "json", "ids"), (b"{", b"{}", b"[1]", b"\0"), strict=False
    ):
        (tmp_path / f"data/shards/{shard.key}.{kind}").write_bytes(content)
    (tmp_path / f"data/shards/{made[4].key}.ids").unlink()
    assert encode_corpus(split, BPE).train_ids.tolist() == ids_of(texts(300, 6))


@pytest.mark.parametrize("error", [KeyboardInterrupt, None])
def test_where_encoding_stops_its_processes_end(tmp_path, monkeypatch, error):
    """Nobody encodes on: not after Ctrl-C, nor where one of them was killed."""
    split = split_of(tmp_path / "data", texts(300, 6))
    planned = shards.plan_shards(split.train, BPE, True)
    processes, done = [], []
    start = shards.subprocess.Popen
    monkeypatch.setattr(
        shards.subprocess,
        "Popen",
        lambda *args, **more: processes.append(start(*args, **more)) or processes[-1],
    )

    def progress(n_bytes):
        done.append(n_bytes)
        if error is None:
            [process.kill() for process in processes]
        elif len(done) == 1:
            os.kill(os.getpid(), signal.SIGINT)  # To the thread that waits, as from a terminal.
        time.sleep(0.2)  # Time to hear of it before the next.

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # pytest-xdist ignores it.
    try:
        with pytest.raises(error or BadInputError, match="workers 1" if error is None else None):
            shards.encode_shards(
                planned, tmp_path / "data", BPE, tmp_path / "data/shards", 2, progress
            )
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(done) < len(planned)
    assert all(process.wait(10) is not None for process in processes)


def test_a_worker_whose_reader_is_gone_ends_without_a_word(tmp_path):
    split = split_of(tmp_path / "data", texts(30, 6))
    BPE.save(tmp_path / "data")
    command = [sys.executable, "-m", "minitx.corpus.shard_worker", str(tmp_path / "data")]
    with subprocess.Popen(
        [*command, str(tmp_path / "data"), str(os.getpid())],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as worker:  # fmt: skip
        worker.stdout.close()
        shard = shards.plan_shards(split.train, BPE, True)[0]
        _, words = worker.communicate(json.dumps(asdict(shard)) + "\n", timeout=60)
    assert (worker.returncode, words) == (1, "")


def test_the_same_files_are_not_read_again_and_a_changed_one_is(tmp_path, monkeypatch):
    file = tmp_path / "a.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts(200, 7)))
    data = DataConfig((str(file),))
    corpus = read_corpus(data.corpus)
    split = split_corpus(corpus, data, tmp_path / "first")
    known_by = earlier_runs.signature(corpus, data)
    encode_corpus(split, BPE, notes={"signature": known_by})
    again = earlier_runs.reused_split(known_by, tmp_path / "again", [tmp_path / "first"])
    assert again is not None
    assert again.digest == split.digest
    assert again.train.text() == split.train.text()
    assert [again.name_of(again.train, 0)] == [split.name_of(split.train, 0)]
    monkeypatch.setattr(shards, "encode_shard", None)  # Nothing is encoded.
    ids = encode_corpus(again, BPE, [tmp_path / "first"]).train_ids
    np.testing.assert_array_equal(ids, encoded.load_encoded(tmp_path / "first").train_ids)
    with file.open("a") as more:
        more.write('{"text": "more"}\n')
    changed = earlier_runs.signature(read_corpus(data.corpus), data)
    assert earlier_runs.reused_split(changed, tmp_path / "other", [tmp_path / "first"]) is None


def test_a_run_on_most_of_the_text_is_told_of(tmp_path, monkeypatch):
    monkeypatch.setattr(earlier_runs, "_WORTH_TELLING", 100)
    data = DataConfig(("texts",))

    def known_by(*files):
        return {"files": [list(file) for file in files], "settings": {"split": data.split}}

    for name, signature in {
        "most": known_by(("a", 500, 1), ("b", 500, 1)),
        "some": known_by(("a", 500, 1)),
        "changed": known_by(("a", 500, 2), ("b", 500, 2)),
        "none": None,
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "corpus.json").write_text(json.dumps({"signature": signature}))
    wanted = known_by(("a", 500, 1), ("b", 500, 1), ("c", 100, 1))
    candidates = [tmp_path / name for name in ("none", "some", "changed", "most", "missing")]
    assert earlier_runs.one_with_most_of(wanted, candidates) == tmp_path / "most"
    assert earlier_runs.one_with_most_of(wanted, candidates[:3]) is None
    assert earlier_runs.one_with_most_of(None, candidates) is None


def test_pieces_of_a_part_are_its_documents(tmp_path):
    documents = texts(9_000, 8)  # More than are looked up at once.
    split = split_of(tmp_path, documents)
    assert list(map("".join, split.train.documents())) == [text for text in documents if text]
    table = split.train.table()
    first, last = 5_000, 8_500
    start, end = int(table["end"][first - 1]), int(table["end"][last])
    rest = ["".join(piece) for piece in split.train.pieces(start, end - 2, first, last)]
    whole = documents[last].encode()[:-2].decode("utf-8", "ignore")
    assert rest[:-1] == documents[first:last]
    assert whole.startswith(rest[-1])
    assert isinstance(split.train, PartText)
