"""A large corpus: how fast it is encoded, in how much memory, and what a second run repeats.

python bench/corpus.py --size 2GB

The corpus is made on the spot: JSONL of words drawn by Zipf's law, in three scripts, the same for
the same size.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from harness import Result, Samples, Table, Target, publish
from tokenizers import Regex, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from minitx.corpus.part_text import PARTS, PartText
from minitx.corpus.shards import encode_shards, plan_shards
from minitx.tokenizer import load_tokenizer
from minitx.tokenizer.bpe import PATTERN, train_bpe

UNITS = {"MB": 10**6, "GB": 10**9}
SMALL = (
    "--layers 1 --heads 1 --d-model 32 --context 64 --batch-size 4 "
    "--evaluation-tokens 2000 --closing-tokens 2000 --vocab-size 8192"
)
N_WORDS, AT_ONCE = 60_000, 256
ADDED = 0.01
"""Part of the corpus that is added to it as a file of its own."""
PEER_BYTES, TRAINED_ON, VOCAB_SIZE = 48_000_000, 24_000_000, 8192
SECONDS_TO_START = 3.0


def documents(size: int, seed: int) -> Iterator[str]:
    """Texts of about 5 kB, the median 2.5, of so many bytes in all."""
    rng = np.random.default_rng(seed)
    latin = [c + v + e for c in (*"bcdfghlmnprstvw", "st", "th") for v in "aeiou"
             for e in ("", *"nrs")]  # fmt: skip
    cyrillic = [c + v for c in "бвгдклмнпрст" for v in "аеиоу"]
    han = [chr(code) for code in range(0x4E00, 0x4FA0)]
    words = []
    for i in range(N_WORDS):
        syllables = latin if i % 16 else cyrillic if i % 32 else han
        n_syllables = 1 + int(np.log10(i + 1) * 0.6 + rng.random() * 1.5)
        word = "".join(syllables[j] for j in rng.integers(0, len(syllables), n_syllables))
        words.append(f" {word if i % 100 else i}")
    table = [word + end for end in ("", ",", ".", ".\n\n") for word in words]
    weights = np.cumsum(1 / (np.arange(N_WORDS) + 2.7))
    done = 0
    while True:
        lengths = np.maximum(5, rng.lognormal(5.8, 1.0, AT_ONCE).astype(int))
        drawn = np.searchsorted(weights, rng.random(int(lengths.sum())) * weights[-1])
        ends = np.searchsorted([0.86, 0.94, 0.99], rng.random(len(drawn)))
        spelled = list(map(table.__getitem__, (drawn + ends * N_WORDS).tolist()))
        start = 0
        for length in lengths.tolist():
            text = "".join(spelled[start : start + length]).strip()
            start += length
            yield text
            done += len(text.encode())
            if done >= size:
                return


@dataclass
class Counted:
    """How many documents, and the sum of their hashes: the same in any order."""

    n: int = 0
    n_bytes: int = 0
    hashes: int = 0

    def add(self, text: bytes) -> None:
        self.n += 1
        self.n_bytes += len(text)
        digest = hashlib.sha256(text).digest()
        self.hashes = (self.hashes + int.from_bytes(digest[:8], "little")) % 2**64


def make(path: Path, size: int, seed: int) -> Counted:
    counted = Counted()
    with path.open("w", encoding="utf-8") as file:
        for text in documents(size, seed):
            counted.add(text.encode())
            file.write(json.dumps({"id": counted.n, "text": text}, ensure_ascii=False) + "\n")
    return counted


@dataclass
class Command:
    """A command that ran: when each line of its was told, and the most memory at any time."""

    lines: list[tuple[float, str]] = field(default_factory=list)
    seconds: float = 0.0
    peak: int = 0

    def when(self, text: str) -> float:
        """Seconds until a line with this was told."""
        return next(seconds for seconds, line in self.lines if text in line)

    def phase(self, name: str) -> float:
        """Seconds that a phase took."""
        began = self.when(f"phase {name}")
        others = [s for s, line in self.lines if s > began and name not in line]
        return others[0] - began


def run(*arguments: str) -> Command:
    """Run `minitx`, and look at the memory of all its processes ten times a second."""
    import threading

    done = Command()
    began = time.perf_counter()
    command = [sys.executable, "-u", "-m", "minitx", *arguments]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:

        def read() -> None:
            for line in process.stdout or ():
                done.lines.append((time.perf_counter() - began, line.rstrip()))

        reader = threading.Thread(target=read)
        reader.start()
        while process.poll() is None:
            done.peak = max(done.peak, _memory(process.pid))
            time.sleep(0.1)
        reader.join()
    print(f"minitx {arguments[0]}: {done.peak / 1e6:,.0f} MB at most", flush=True)
    done.seconds = time.perf_counter() - began
    if process.returncode:
        raise SystemExit("\n".join(line for _, line in done.lines))
    return done


def _memory(pid: int) -> int:
    """Bytes of a process and all below it; what they share is counted once, what of a file lies in
    memory as far as they map it."""
    total = 0
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) * 1024
        for task in Path(f"/proc/{pid}/task").iterdir():
            total += sum(map(_memory, map(int, (task / "children").read_text().split())))
    except (OSError, ValueError):
        return total  # It has just ended.
    return total


def count_encoded(data: Path) -> Counted:
    """The documents that the ids stand for."""
    tokenizer, counted = load_tokenizer(data), Counted()
    table = [tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size)]
    for part in PARTS:
        ids = np.memmap(data / f"{part}.ids", "<u2" if tokenizer.vocab_size <= 2**16 else "<u4")
        start = 0
        for end in np.flatnonzero(ids == tokenizer.end_id).tolist():
            counted.add(b"".join([table[i] for i in ids[start:end].tolist()]))
            start = end + 1
    return counted


def shards_of(data: Path) -> dict[str, int]:
    noted = json.loads((data / "corpus.json").read_text())["shards"]
    return {shard["key"]: shard["bytes"] for part in PARTS for shard in noted[part]}


def in_turns(contenders: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, Samples]:
    """As `harness.interleave`, of what takes seconds: nothing is done before it is timed."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, step in contenders.items():
            began = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - began)
            print(f"{name} took {seconds[name][-1]:.1f} s", flush=True)
    return {name: Samples(tuple(values)) for name, values in seconds.items()}


def beside_encode_batch(data: Path, rounds: int) -> tuple[dict[str, Samples], int]:
    """Some shards, by our processes and by one call of the library for each thousand texts."""
    tokenizer, part = load_tokenizer(data), PartText(data, "train")
    planned = plan_shards(part, tokenizer, True)
    chosen, size = [], 0
    while size < PEER_BYTES and len(chosen) < len(planned):
        chosen.append(planned[len(chosen)])
        size += chosen[-1].n_bytes
    texts = ["".join(d) for d in part.pieces(0, chosen[-1].end, 0, chosen[-1].last)]

    def ours() -> None:
        with tempfile.TemporaryDirectory() as made:
            n = os.cpu_count() or 1
            encode_shards(chosen, data, tokenizer, Path(made), n, lambda n_bytes: None)

    def theirs() -> None:
        for i in range(0, len(texts), 1000):
            for encoding in tokenizer.backend.encode_batch(texts[i : i + 1000]):
                np.asarray(encoding.ids, np.uint16)

    return in_turns({"minitx": ours, "tokenizers": theirs}, rounds), size


def beside_trainers(data: Path, rounds: int) -> dict[str, Samples]:
    """One sample, learned from by each; with the same pattern and as many tokens."""
    texts, size = [], 0
    for document in PartText(data, "train").documents():
        texts.append("".join(document))
        size += len(texts[-1])
        if size > TRAINED_ON:
            break

    def theirs() -> None:
        backend = Backend(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.Sequence([
            pre_tokenizers.Split(Regex(PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ])  # fmt: skip
        trainer = trainers.BpeTrainer(
            vocab_size=VOCAB_SIZE - 1, min_frequency=2, show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        )  # fmt: skip
        backend.train_from_iterator(iter(texts), trainer)

    contenders = {"minitx": lambda: train_bpe(iter(texts), VOCAB_SIZE), "tokenizers": theirs}
    try:
        rustbpe = importlib.import_module("rustbpe")
    except ImportError:
        print("no rustbpe here: pip install rustbpe")
    else:
        contenders["rustbpe"] = lambda: rustbpe.Tokenizer().train_from_iterator(
            iter(texts), VOCAB_SIZE - 1, pattern=PATTERN
        )
    return in_turns(contenders, rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="2GB", help="of the texts, for example 300MB")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="write the JSON here instead")
    given = parser.parse_args()
    match = re.fullmatch(r"(\d+)(MB|GB)", given.size)
    if match is None:
        parser.error(f"--size {given.size} is no size like 300MB or 2GB")
    with tempfile.TemporaryDirectory() as temporary:
        publish(measure(Path(temporary), int(match[1]) * UNITS[match[2]], given), given.out)


def measure(directory: Path, size: int, given: argparse.Namespace) -> Result:
    texts, runs = directory / "texts", directory / "runs"
    texts.mkdir()
    wanted = make(texts / "a.jsonl", size, 1)
    made = wanted.n_bytes / 1e6
    print(f"made {wanted.n:,} documents, {made:,.0f} MB", flush=True)
    train = ["train", str(texts), "--steps", "2", "--log-every", "1", *SMALL.split()]
    first = run(*train, "--out", str(runs / "first"))
    print("\n".join(f"{seconds:7.1f} s  {line}" for seconds, line in first.lines), flush=True)
    found = count_encoded(runs / "first/data")
    again = run(*train, "--out", str(runs / "again"))
    score = run("eval", str(runs / "first"), "--holdout", "--max-tokens", "20000")
    make(texts / "b.jsonl", int(size * ADDED), 2)
    train = [*train[:-2], "--tokenizer", str(runs / "first/data")]  # In place of its size.
    added = run(*train, "--out", str(runs / "added"))
    before, after = (shards_of(runs / name / "data") for name in ("first", "added"))
    encoded_anew = sum(size for key, size in after.items() if key not in before)
    rates, n_bytes = beside_encode_batch(runs / "first/data", given.rounds)
    trained = beside_trainers(runs / "first/data", given.rounds)
    rate = {name: n_bytes / 1e6 / samples.median for name, samples in rates.items()}
    phases = [line.removeprefix("phase ") for _, line in first.lines if line.startswith("phase ")]
    phases = [name for name in phases if ":" not in name]
    started = again.when("step 1/2")
    peak = max(first.peak, again.peak, added.peak, score.peak)
    fastest_peer = min((s.median, name) for name, s in trained.items() if name != "minitx")
    return Result(
        name="corpus",
        title="A large corpus",
        about=f"`minitx train` on a corpus of {given.size} in one JSONL file of "
        f"{found.n:,} documents that the bench makes: words by Zipf's law, in three scripts. "
        "Memory is that of all processes together (proportional set size, with what of the corpus "
        "they map), looked at ten times a second. Encoding and the training of a tokenizer are "
        "compared on parts of it that are in memory, in turns.",
        tables=[
            Table(
                "The first run, until its first step:",
                ["phase", "seconds", "MB a second"],
                [[name, f"{s:.1f}", f"{made / s:,.0f}"] for name in phases
                 for s in (max(0.001, first.phase(name)),)],
            ),
            Table(
                "Memory of all processes, at most:",
                ["command", "memory"],
                [[name, f"{command.peak / 1e6:,.0f} MB"] for name, command in (
                    ("train", first), ("train, the same again", again),
                    ("train, a file added", added), ("eval --holdout", score))],
            ),
            Table(
                f"Encoding {n_bytes / 1e6:.0f} MB, and learning {VOCAB_SIZE:,} tokens from "
                f"{TRAINED_ON / 1e6:.0f} MB:",
                ["", "program", "seconds", "spread", "minitx takes"],
                [[what if name == "minitx" else "", name, f"{s.median:.2f}", f"{s.spread:.1%}",
                  f"{samples['minitx'].median / s.median:.2f} times that"]
                 for what, samples in (("encoding", rates), ("learning", trained))
                 for name, s in samples.items()],
                labels=2,
            ),
        ],
        targets=[
            Target("encoding at 90 % of the rate of `encode_batch` or more",
                   f"{rate['minitx']:.1f} and {rate['tokenizers']:.1f} MB a second",
                   rate["minitx"] >= 0.9 * rate["tokenizers"]),
            Target("less than 1 GB of memory", f"{peak / 1e6:,.0f} MB", peak < 1e9),
            Target("a first line within 2 seconds", f"{first.lines[0][0]:.1f} s",
                   first.lines[0][0] <= 2.0),
            Target("no document lost or doubled in the ids",
                   f"{found.n:,} of {wanted.n:,}, and the sum of their hashes is "
                   f"{'the same' if found == wanted else 'another'}", found == wanted),
            Target("a tokenizer learned as soon as by any peer",
                   f"{trained['minitx'].median:.1f} s, and {fastest_peer[0]:.1f} s by "
                   f"{fastest_peer[1]}", trained["minitx"].median <= fastest_peer[0]),
            Target(f"the same corpus again: a first step within {SECONDS_TO_START:.0f} seconds",
                   f"{started:.1f} s", started <= SECONDS_TO_START),
            Target("of a corpus with a file more, and the tokenizer of the first run, little more "
                   "than that file is encoded",
                   f"{encoded_anew / 1e6:,.1f} MB of {sum(after.values()) / 1e6:,.0f}",
                   encoded_anew < 2 * ADDED * sum(after.values()) + 16e6),
        ],
        raw={"phases": {name: first.phase(name) for name in phases}, "rate": rate,
             "trained": {name: samples.seconds for name, samples in trained.items()}},
    )  # fmt: skip


if __name__ == "__main__":
    main()
