"""Encoding that is killed at any instant goes on where it was, to the same bytes."""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from minitx.tokenizer import train_tokenizer

VICTIM = Path(__file__).with_name("encoding_victim.py")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    place = tmp_path_factory.mktemp("corpus")
    chance = random.Random(1)
    words = [chance.randbytes(3).hex() for _ in range(400)] + ["naïve", "\u4e2d\u6587", "\n"]
    texts = [" ".join(chance.choices(words, k=chance.randrange(1, 300))) for _ in range(900)]
    lines = [json.dumps({"text": text}) + "\n" for text in texts]
    (place / "notes.jsonl").write_text("".join(lines))
    train_tokenizer(texts[:300], "bpe", 400).save(place / "tokenizer")
    return place


def start(corpus, directory, workers):
    command = [sys.executable, "-X", "utf8", VICTIM, corpus / "notes.jsonl", directory, workers]
    return subprocess.Popen(
        [*map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(process):
    out, err = process.communicate(timeout=900)
    assert process.returncode == 0, err
    encoded, digest = out.split()
    return int(encoded), digest


def whole(directory):
    """The shards that are there in full: the bytes of text in each, and its ids."""
    found = {}
    for note in directory.glob("data/shards/*.json"):
        if len(note.stem) == 32:
            n_bytes = json.loads(note.read_text())["bytes"]
            found[note.stem] = n_bytes, note.with_suffix(".ids").read_bytes()
    return found


@pytest.fixture(scope="module")
def undisturbed(corpus, tmp_path_factory):
    directory = tmp_path_factory.mktemp("undisturbed") / "run"
    began = time.monotonic()
    encoded, digest = finish(start(corpus, directory, 1))
    return encoded, digest, time.monotonic() - began


def kill(corpus, directory, workers, chance, seconds):
    """Begin or go on, and kill it: amid the shards, or at any instant."""
    there = len(whole(directory))
    process = start(corpus, directory, workers)
    until = time.monotonic() + seconds * (2 if chance.random() < 0.7 else chance.random())
    wanted = there + chance.randrange(1, 9)
    while time.monotonic() < until and process.poll() is None:
        if len(list(directory.glob("data/shards/*.json"))) > wanted:
            break
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    time.sleep(chance.choice([0.0, 0.3]))  # At once, its workers may be there yet.


def live_and_die(corpus, directory, workers, kills, seed, undisturbed):
    everything, digest, seconds = undisturbed
    chance, there = random.Random(seed), {}
    for _ in range(kills):
        kill(corpus, directory, workers, chance, seconds)
        if (directory / "data/corpus.json").exists():
            return 0  # It came to its end before.
        # What was whole stays as it is.
        before, there = there, whole(directory)
        assert before.items() <= there.items()
    encoded, found = finish(start(corpus, directory, workers))
    assert found == digest
    # None that was whole is encoded again. (A worker may have ended one more since.)
    assert encoded <= everything - sum(n_bytes for n_bytes, _ in there.values())
    assert workers > 1 or encoded == everything - sum(n_bytes for n_bytes, _ in there.values())
    assert not (directory / "data/shards").exists()
    return len(there)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_encoding_goes_on_to_the_same_bytes(corpus, undisturbed, tmp_path, workers):
    live_and_die(corpus, tmp_path / "run", workers, 2, workers, undisturbed)


@pytest.mark.campaign
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_many_killed_encodings_go_on_to_the_same_bytes(corpus, undisturbed, tmp_path, workers):
    kept = [
        live_and_die(corpus, tmp_path / str(seed), workers, 1 + seed % 4, seed, undisturbed)
        for seed in range(12)
    ]
    print(f"{workers} workers: shards that were whole after the last kill: {kept}")
    assert sum(map(bool, kept)) > 6


def test_the_number_of_workers_changes_no_byte(corpus, undisturbed, tmp_path):
    assert finish(start(corpus, tmp_path / "run", 3))[1] == undisturbed[1]
