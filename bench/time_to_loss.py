"""Time to a loss and loss in a time, beside nanoGPT's recipe for a CPU. Whole processes.

python bench/time_to_loss.py --nanogpt PATH --corpus FILE
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from harness import Result, Table, Target, kind_of_cpu, publish
from peers import COMPILED, compiles_for_cpu
from torch.nn import functional as F

from minitx.checkpoint.huggingface import load_model
from minitx.checkpoint.rundir import resolve_checkpoint
from minitx.compute import choose_device
from minitx.config.train_config import DeviceName
from minitx.corpus import load_encoded
from minitx.evaluation.scoring import score, windows_for


@dataclass(frozen=True)
class Setting:
    """What is compared on one kind of device.

    Attributes:
        name: of the result.
        device: where ours is trained.
        title: of its section.
        recipe: nanoGPT's command, as its README gives it for that device.
        context: of the recipe; both models are scored with it, windows side by side.
        aim: loss to be reached; None for the one that nanoGPT reaches.
        part: of nanoGPT's time in which to reach it.
        budgets: tried in turn for that.
        best: loss to be reached in all of nanoGPT's time, with products in float32 and in bfloat16.
    """

    name: str
    device: DeviceName
    title: str
    recipe: str
    context: int
    aim: float | None
    part: int
    budgets: tuple[str, ...]
    best: tuple[float, float]


SETTINGS = {
    "cpu": Setting(
        name="time_to_loss",
        device="cpu",
        title="Time to a loss",
        recipe="train.py config/train_shakespeare_char.py --device=cpu --compile=False "
        "--eval_iters=20 --log_interval=1 --block_size=64 --batch_size=12 --n_layer=4 --n_head=4 "
        "--n_embd=128 --max_iters=2000 --lr_decay_iters=2000 --dropout=0.0",
        context=64,
        aim=None,
        part=12,
        budgets=("3s", "4s", "5s", "7s", "10s"),
        best=(1.49, 1.46),
    ),
    "cuda": Setting(
        name="gpu_time_to_loss",
        device="cuda",
        title="Time to a loss on a GPU",
        recipe="train.py config/train_shakespeare_char.py",
        context=256,
        aim=1.4697,
        part=5,
        budgets=("8s", "10s", "13s"),
        best=(1.4697, 1.4697),
    ),
}


@dataclass(frozen=True)
class Whole:
    """A whole training process.

    Attributes:
        name: for tables.
        seconds: of wall-clock time, from starting the process to its end.
        loss: of the whole holdout at the context of the setting, in nats per character.
        own_loss: at the model's own context.
        own_context: in tokens.
        first_step: seconds of nanoGPT's first step, which evaluates and, if it does, compiles.
    """

    name: str
    seconds: float
    loss: float
    own_loss: float
    own_context: int
    first_step: float = 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nanogpt", type=Path, required=True, help="a checkout")
    parser.add_argument("--corpus", type=Path, required=True, help="tiny Shakespeare")
    parser.add_argument("--device", choices=SETTINGS, default="cpu")
    parser.add_argument("--budgets", nargs="*", help="for the time to its loss")
    parser.add_argument("--short", action="store_true", help="without the run as long as theirs")
    parser.add_argument("--out", type=Path, help="write the JSON here instead")
    given = parser.parse_args()
    setting = SETTINGS[given.device]
    # Each process runs in a directory of its own.
    checkout, corpus = given.nanogpt.resolve(), given.corpus.resolve()
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        theirs = _nanogpt("nanoGPT", setting.recipe, setting, checkout, corpus, work)
        aim = theirs.loss if setting.aim is None else setting.aim
        print(theirs, file=sys.stderr, flush=True)
        peers = [theirs]
        if setting.device == "cpu" and compiles_for_cpu():
            # What torch compiled in an earlier run would be taken from there.
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(work / "compiled")
            recipe = setting.recipe.replace("--compile=False", "--compile=True")
            peers.append(_nanogpt(COMPILED, recipe, setting, checkout, corpus, work))
            print(peers[-1], file=sys.stderr, flush=True)
        short: list[Whole] = []
        for budget in given.budgets or setting.budgets:
            short.append(_minitx(setting, corpus, budget, work / f"run-{budget}"))
            print(short[-1], file=sys.stderr, flush=True)
            if short[-1].loss <= aim:
                break
        long: Whole | None = None
        # The budget is of training; what a process takes beside it is seen in the short runs.
        beside = max((w.seconds - float(w.name.split()[-1][:-1]) for w in short), default=4.0)
        if not given.short:
            budget = f"{int(theirs.seconds - beside)}s"
            long = _minitx(setting, corpus, budget, work / "long")
    on_gpu = setting.device == "cuda"
    publish(_result(setting, aim, peers, short, long), given.out, on_gpu=on_gpu)


def _nanogpt(
    name: str, recipe: str, setting: Setting, checkout: Path, corpus: Path, work: Path
) -> Whole:
    copy = work / name
    shutil.copytree(checkout, copy, ignore=shutil.ignore_patterns(".git", "assets"))
    data = copy / "data" / "shakespeare_char"
    shutil.copyfile(corpus, data / "input.txt")
    _timed([sys.executable, "prepare.py"], data)
    seconds, said = _timed([sys.executable, *recipe.split()], copy)
    first = re.search(r"^iter 0: .*time ([\d.]+)ms", said, re.MULTILINE)
    sys.path.insert(0, str(copy))
    from model import GPT, GPTConfig

    saved = torch.load(copy / "out-shakespeare-char" / "ckpt.pt", weights_only=True)
    model = GPT(GPTConfig(**saved["model_args"]))
    # Saved compiled, each name has a prefix.
    model.load_state_dict(
        {key.removeprefix("_orig_mod."): tensor for key, tensor in saved["model"].items()}
    )
    device = choose_device(setting.device)
    model.eval().to(device)
    ids = np.fromfile(data / "val.bin", dtype=np.uint16).astype(np.int64)
    total = 0.0
    with torch.no_grad():
        for start in range(0, len(ids) - 1, setting.context):
            part = torch.from_numpy(ids[start : start + setting.context + 1]).to(device)
            logits, _ = model(part[None, :-1], part[None, 1:])
            total += float(F.cross_entropy(logits[0], part[1:], reduction="sum"))
    loss = total / (len(ids) - 1)
    first_step = float(first[1]) / 1e3 if first else 0.0
    return Whole(name, seconds, loss, loss, setting.context, first_step)


def _minitx(setting: Setting, corpus: Path, budget: str, run: Path) -> Whole:
    command = ["-m", "minitx", "train", str(corpus), "--kind", "char", "--budget", budget]
    command += ["--device", setting.device, "--out", str(run)]
    seconds, _ = _timed([sys.executable, *command], run.parent)
    model = load_model(resolve_checkpoint(run)).model.to(choose_device(setting.device))
    ids = load_encoded(run / "data").holdout_ids
    context = min(setting.context, model.config.context_length)
    return Whole(
        f"minitx train --kind char --budget {budget}",
        seconds,
        score(model, ids, windows_for(model, context)).loss,
        score(model, ids).loss,
        model.config.context_length,
    )


def _timed(command: list[str], directory: Path) -> tuple[float, str]:
    # Seconds of a whole process, and what it printed.
    began = time.perf_counter()
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return time.perf_counter() - began, done.stdout


def _result(
    setting: Setting,
    aim: float,
    peers: list[Whole],
    short: list[Whole],
    long: Whole | None,
) -> Result:
    theirs = peers[0]
    ours = short if long is None else [*short, long]
    rows = [
        [
            whole.name,
            f"{whole.seconds:.1f} s",
            f"{whole.loss:.4f}",
            f"{whole.own_loss:.4f} at {whole.own_context}",
            f"{theirs.seconds / whole.seconds:.1f}",
        ]
        for whole in (*peers, *ours)
    ]
    reached = [whole for whole in ours if whole.loss <= aim]
    goal = "nanoGPT's loss" if setting.aim is None else f"a loss of {aim}"
    fastest = min(reached, key=lambda whole: whole.seconds, default=None)
    targets = [
        Target(
            f"{goal} in 1/{setting.part} of nanoGPT's time",
            "not reached" if fastest is None
            else f"{fastest.seconds:.1f} of {theirs.seconds:.1f} s, "
            f"{theirs.seconds / fastest.seconds:.1f} times as fast",
            fastest is not None and fastest.seconds <= theirs.seconds / setting.part,
        ),
    ]  # fmt: skip
    if long is not None:
        best = setting.best[kind_of_cpu().endswith("-bf16")]
        targets.append(
            Target(
                f"loss at context {setting.context} at most {best:.4g} in the same time",
                f"{long.loss:.4f} in {long.seconds:.1f} of {theirs.seconds:.1f} s",
                long.loss <= best and long.seconds <= theirs.seconds,
            )
        )
    if long is not None and long.own_context != setting.context:
        targets.append(
            Target(
                "better still at our own context",
                f"{long.own_loss:.4f} at {long.own_context}",
                long.own_loss < long.loss,
            )
        )
    return Result(
        name=setting.name,
        title=setting.title,
        about="Each row is one whole process, from its start to its end: imports, reading the "
        "text, planning, compiling, training, evaluations, checkpoints. nanoGPT runs the recipe "
        "that its README gives for such a device; preparing its data beforehand is not counted. "
        "The text is tiny Shakespeare in characters; the loss is that of the last tenth, each "
        "character once, in nats per character, in windows side by side.",
        tables=[
            Table(
                "One after the other on the same machine:",
                ["who", "whole process", f"loss at context {setting.context}", "at its own context",
                 "nanoGPT's time over it"],
                rows,
            )
        ],
        targets=targets,
        notes=[
            f"{peer.name}: its first step, which compiles, took {peer.first_step:.0f} s."
            for peer in peers
            if peer.name == COMPILED
        ],
        raw={
            "nanogpt": [asdict(peer) for peer in peers],
            "short": [asdict(whole) for whole in short],
            "long": long and asdict(long),
        },
    )  # fmt: skip


if __name__ == "__main__":
    main()
