"""Runs of `minitx` in several processes, small enough for a test."""

from __future__ import annotations

import hashlib
import json
import os
import random
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

SMALL = (
    *("--layers", "2", "--heads", "2", "--d-model", "32", "--context", "32"),
    *("--batch-size", "4", "--accumulation", "4", "--dtype", "float32", "--log-every", "1"),
)


def text_file(directory: Path, n_words: int = 6000) -> Path:
    """A text that a small model learns something of."""
    chance = random.Random(1)
    words = ["".join(chance.choices("aeioulmnrst", k=chance.randint(2, 6))) for _ in range(80)]
    path = directory / "words.txt"
    lines = (" ".join(chance.choices(words, k=8)) for _ in range(n_words // 8))
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "minitx", *map(str, arguments)]


def minitx(*arguments: object, code: int = 0, **environment: str) -> str:
    """Run it to its end; returns what it wrote to stderr."""
    done = subprocess.run(
        command(*arguments), capture_output=True, text=True, timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )  # fmt: skip
    assert done.returncode == code, (done.returncode, done.stderr)
    return done.stderr


def start(*arguments: object) -> subprocess.Popen[str]:
    return begin(command(*arguments))


def torchrun(*arguments: object) -> list[str]:
    """A command that starts `minitx` with torchrun; options of torchrun come first."""
    n_options = sum(str(argument).startswith("--") for argument in arguments[:5])
    options, own = arguments[:n_options], arguments[n_options:]
    words = [sys.executable, "-m", "torch.distributed.run", *options, "-m", "minitx", *own]
    return [str(word) for word in words]


def begin(words: list[str], **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment}, start_new_session=True,
    )  # fmt: skip


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def metrics(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def losses(run: Path) -> dict[tuple[str, int], float]:
    """Of each step and evaluation, by kind and step."""
    return {
        (line["kind"], line["step"]): line["loss" if line["kind"] == "step" else "holdout_loss"]
        for line in metrics(run)
        if line["kind"] in ("step", "evaluation")
    }


def digests(run: Path, step: int) -> list[str]:
    """Of the weights and the optimizer's state."""
    files = ("model.safetensors", "optimizer.safetensors")
    directory = run / "checkpoints" / f"step-{step:06d}"
    return [hashlib.sha256((directory / name).read_bytes()).hexdigest() for name in files]


def ranks(pid: int) -> dict[int, int]:
    """Process ids of those that a launcher started, by rank."""
    found = {}
    for child in _children(pid):
        environment = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        for entry in environment:
            if entry.startswith(b"RANK="):
                found[int(entry[5:])] = child
    return found


def _children(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in listed]


def wait_for_steps(run: Path, n: int, seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if (run / "metrics.jsonl").exists():
            written = (run / "metrics.jsonl").read_text().count('"kind": "step"')
            if written >= n:
                return
        time.sleep(0.05)
    raise AssertionError(f"{run} did not come to step {n}")
