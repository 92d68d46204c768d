"""Two processes of one thread beside one process of two: what sharing a run out costs.

python bench/scale.py
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from harness import Result, Samples, Table, Target, publish
from peers import SHAKESPEARE_GPU

AIM = 0.90
UNTIMED = 3
"""First steps of a run, which allot memory and choose kernels."""

LOAD = SHAKESPEARE_GPU
FLAGS = (
    f"--layers {LOAD.layers} --heads {LOAD.heads} --d-model {LOAD.width} --context {LOAD.context} "
    f"--batch-size {LOAD.batch} --kind char --log-every 1 --evaluate-every 1000 "
    "--evaluation-tokens 1000 --closing-tokens 1000"
).split()
CONTENDERS = {
    "1 process of 2 threads": ("--processes", "1", "--threads", "2"),
    "2 processes of 1 thread": ("--processes", "2", "--threads", "1"),
}
ALONE, SHARED = CONTENDERS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="turns of each")
    parser.add_argument("--steps", type=int, default=12, help="of a turn")
    parser.add_argument("--out", type=Path, help="write the JSON here instead")
    parser.add_argument("--sending", nargs=2, type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.sending:
        _sending_here(*given.sending)
        return
    seconds: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        (place / "text.txt").write_text("To be, or not to be: that is the question.\n" * 20_000)
        for _ in range(given.rounds):
            for name, flags in CONTENDERS.items():
                seconds[name] += _steps(place, flags, given.steps)
        sizes = json.loads((place / "plan.json").read_text())
    timed = {name: Samples(tuple(values)) for name, values in seconds.items()}
    publish(_result(timed, _sending(*sizes)), given.out)


def _steps(place: Path, flags: tuple[str, ...], steps: int) -> list[float]:
    # Seconds of each step of a run, as it notes them.
    run = place / f"run-{time.monotonic_ns()}"
    command = [sys.executable, "-m", "minitx", "train", "text.txt", *FLAGS, *flags]
    subprocess.run(
        [*command, "--steps", str(steps), "--out", str(run)],
        cwd=place, check=True, stdout=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": flags[-1]},
    )  # fmt: skip
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    rates = [line["timing"]["tokens_per_second"] for line in lines if line["kind"] == "step"]
    config = json.loads((next(run.glob("checkpoints/*")) / "config.json").read_text())
    width, ff = config["hidden_size"], config["intermediate_size"]
    matrices = config["num_hidden_layers"] * width * (4 * width + 3 * ff)
    both = matrices + 2 * config["vocab_size"] * width
    (place / "plan.json").write_text(json.dumps([both, matrices]))
    return [LOAD.tokens / rate for rate in rates[UNTIMED:]]


def _sending(numbers: int, matrices: int) -> float:
    # Seconds that two processes send for when they do nothing else.
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", __file__]
    done = subprocess.run(
        [*command, "--sending", str(numbers), str(matrices)],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return float(done.stdout.splitlines()[-1])


def _sending_here(numbers: int, matrices: int) -> None:
    from torch import distributed

    distributed.init_process_group("gloo")
    torch.set_num_threads(1)
    gradients, half, best = torch.ones(numbers), torch.ones(matrices // 2), float("inf")
    for _ in range(8):
        distributed.barrier()
        began = time.perf_counter()
        distributed.all_reduce(gradients)
        for owner in range(2):
            distributed.broadcast(half, src=owner)
        best = min(best, time.perf_counter() - began)
        gradients.fill_(1.0)
    if distributed.get_rank() == 0:
        print(best)
    distributed.destroy_process_group()


def _result(timed: dict[str, Samples], sending: float) -> Result:
    rows = [
        [
            name,
            f"{LOAD.tokens / samples.median:,.0f}",
            f"{1e3 * samples.median:.0f} ms",
            f"{samples.spread:.1%}",
            f"{timed[ALONE].median / samples.median:.0%}",
            f"{sending / samples.median:.1%}" if name == SHARED else "",
        ]
        for name, samples in timed.items()
    ]
    share = timed[ALONE].median / timed[SHARED].median
    notes = []
    if not torch.cuda.is_available():
        notes.append("No GPU was at hand: data parallelism on GPUs was not measured.")
    return Result(
        name="scale",
        title="Several processes",
        about=f"`minitx train` at the shape of {LOAD.name}, context {LOAD.context}, batch "
        f"{LOAD.batch}, with Muon, as whole runs that take turns: a step as the run notes it. "
        "Sending is what two processes take to add up gradients and exchange Muon's matrices by "
        "gloo when they do nothing else, over a step; in training most of it runs beside the "
        "backward pass.",
        tables=[
            Table(
                "On two cores:",
                ["who", "tokens/s", "a step", "spread", "share of one process", "sending"],
                rows,
            )
        ],
        targets=[
            Target(
                f"2 processes at least {AIM:.0%} as fast as 1 of two threads",
                f"{share:.0%}",
                share >= AIM,
            )
        ],
        notes=notes,
        raw={name: samples.seconds for name, samples in timed.items()} | {"sending": sending},
    )


if __name__ == "__main__":
    main()
