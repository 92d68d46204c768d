"""Time to a loss and loss in a time, beside nanoGPT's recipe for a CPU. Whole processes.

python bench/time_to_loss.py --nanogpt PATH --corpus FILE
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from harness import Result, Table, Target, publish
from torch.nn import functional as F

CONTEXT = 64
"""Of nanoGPT's CPU recipe; both models are scored with it, windows side by side."""

# The command that nanoGPT's README gives for a machine without a GPU.
RECIPE = (
    "train.py config/train_shakespeare_char.py --device=cpu --compile=False --eval_iters=20 "
    "--log_interval=1 --block_size=64 --batch_size=12 --n_layer=4 --n_head=4 --n_embd=128 "
    "--max_iters=2000 --lr_decay_iters=2000 --dropout=0.0"
)

BUDGETS = ("3s", "4s", "5s", "7s")
"""Tried in turn for the time to nanoGPT's loss."""


@dataclass(frozen=True)
class Whole:
    """A whole training process.

    Attributes:
        name: for tables.
        seconds: of wall-clock time, from starting the process to its end.
        loss: of the whole holdout at `CONTEXT`, in nats per character.
        own_loss: at the model's own context.
        own_context: in tokens.
    """

    name: str
    seconds: float
    loss: float
    own_loss: float
    own_context: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nanogpt", type=Path, required=True, help="a checkout")
    parser.add_argument("--corpus", type=Path, required=True, help="tiny Shakespeare")
    parser.add_argument("--budgets", nargs="*", default=BUDGETS, help="for the time to its loss")
    parser.add_argument("--out", type=Path, help="write the JSON here instead")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        theirs, prepare_seconds = _nanogpt(given.nanogpt, given.corpus, work)
        print(theirs, file=sys.stderr, flush=True)
        short: list[Whole] = []
        for budget in given.budgets:
            short.append(_minitx(given.corpus, budget, work / f"run-{budget}"))
            print(short[-1], file=sys.stderr, flush=True)
            if short[-1].loss <= theirs.loss:
                break
        # The budget is of training; what a process takes beside it is seen in the short runs.
        beside = max((w.seconds - float(w.name.split()[-1][:-1]) for w in short), default=4.0)
        budget = f"{int(theirs.seconds - beside)}s"
        long = _minitx(given.corpus, budget, work / "long")
    publish(_result(theirs, prepare_seconds, short, long), given.out)


def _nanogpt(checkout: Path, corpus: Path, work: Path) -> tuple[Whole, float]:
    copy = work / "nanoGPT"
    shutil.copytree(checkout, copy, ignore=shutil.ignore_patterns(".git", "assets"))
    data = copy / "data" / "shakespeare_char"
    shutil.copyfile(corpus, data / "input.txt")
    prepared = _timed([sys.executable, "prepare.py"], data)
    seconds = _timed([sys.executable, *RECIPE.split()], copy)
    sys.path.insert(0, str(copy))
    from model import GPT, GPTConfig

    saved = torch.load(copy / "out-shakespeare-char" / "ckpt.pt", weights_only=True)
    model = GPT(GPTConfig(**saved["model_args"]))
    model.load_state_dict(saved["model"])
    model.eval()
    ids = np.fromfile(data / "val.bin", dtype=np.uint16).astype(np.int64)
    total = 0.0
    with torch.no_grad():
        for start in range(0, len(ids) - 1, CONTEXT):
            part = torch.from_numpy(ids[start : start + CONTEXT + 1])
            logits, _ = model(part[None, :-1], part[None, 1:])
            total += float(F.cross_entropy(logits[0], part[1:], reduction="sum"))
    loss = total / (len(ids) - 1)
    return Whole("nanoGPT", seconds, loss, loss, CONTEXT), prepared


def _minitx(corpus: Path, budget: str, run: Path) -> Whole:
    from minitx.checkpoint.huggingface import load_model
    from minitx.checkpoint.rundir import resolve_checkpoint
    from minitx.corpus import load_encoded
    from minitx.evaluation import score

    command = ["-m", "minitx", "train", str(corpus), "--kind", "char", "--budget", budget]
    command += ["--out", str(run)]
    seconds = _timed([sys.executable, *command], run.parent)
    model = load_model(resolve_checkpoint(run)).model
    ids = load_encoded(run / "data").holdout_ids
    return Whole(
        f"minitx train --kind char --budget {budget}",
        seconds,
        score(model, ids, context_length=min(CONTEXT, model.config.context_length)).loss,
        score(model, ids).loss,
        model.config.context_length,
    )


def _timed(command: list[str], directory: Path) -> float:
    began = time.perf_counter()
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return time.perf_counter() - began


def _result(theirs: Whole, prepare_seconds: float, short: list[Whole], long: Whole) -> Result:
    rows = [
        [
            whole.name,
            f"{whole.seconds:.1f} s",
            f"{whole.loss:.4f}",
            f"{whole.own_loss:.4f} at {whole.own_context}",
            f"{theirs.seconds / whole.seconds:.1f}",
        ]
        for whole in (theirs, *short, long)
    ]
    reached = [whole for whole in (*short, long) if whole.loss <= theirs.loss]
    fastest = min(reached, key=lambda whole: whole.seconds, default=None)
    targets = [
        Target(
            "nanoGPT's loss in a tenth of its time",
            "not reached" if fastest is None
            else f"{fastest.seconds:.1f} of {theirs.seconds:.1f} s, "
            f"{theirs.seconds / fastest.seconds:.1f} times as fast",
            fastest is not None and fastest.seconds <= theirs.seconds / 10,
        ),
        Target(
            f"loss at context {CONTEXT} at most 1.50 in the same time",
            f"{long.loss:.4f} in {long.seconds:.1f} of {theirs.seconds:.1f} s",
            long.loss <= 1.50 and long.seconds <= theirs.seconds,
        ),
        Target(
            "better still at our own context",
            f"{long.own_loss:.4f} at {long.own_context}",
            long.own_loss < long.loss,
        ),
    ]  # fmt: skip
    return Result(
        name="time_to_loss",
        title="Time to a loss",
        about="Each row is one whole process, from its start to its end: imports, reading the "
        "text, planning, training, evaluations, checkpoints. nanoGPT runs the recipe that its "
        f"README gives for a CPU; preparing its data took {prepare_seconds:.1f} s more, which are "
        "not counted. The text is tiny Shakespeare in characters; the loss is that of the last "
        "tenth, each character once, in nats per character, in windows side by side.",
        tables=[
            Table(
                "One after the other on the same machine:",
                ["who", "whole process", f"loss at context {CONTEXT}", "at its own context",
                 "nanoGPT's time over it"],
                rows,
            )
        ],
        targets=targets,
        raw={"nanogpt": asdict(theirs), "short": [asdict(w) for w in short], "long": asdict(long)},
    )  # fmt: skip


if __name__ == "__main__":
    main()
