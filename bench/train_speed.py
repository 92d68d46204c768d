"""Training tokens a second and peak memory, beside nanoGPT and transformers.

python bench/train_speed.py --nanogpt PATH
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
from pathlib import Path

import torch
from harness import (
    Result,
    Samples,
    Table,
    Target,
    interleave,
    matmul_peak,
    memory_bandwidth,
    publish,
)
from peers import WORKLOADS, Workload, contenders, minitx_shape

ROUNDS = {"small": (8, 10, 3), "large": (3, 1, 1)}
"""Turns of each contender, timed steps in a turn, and steps before the first."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nanogpt", type=Path, help="a checkout of karpathy/nanoGPT")
    parser.add_argument("--out", type=Path, help="write the JSON here instead")
    parser.add_argument("--rounds", type=int, help="turns of each contender")
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument(
        "--memory-of", nargs=2, metavar=("WORKLOAD", "NAME"), help=argparse.SUPPRESS
    )
    given = parser.parse_args()
    if given.memory_of:
        print(json.dumps(_memory_here(WORKLOADS[given.memory_of[0]], given)))
        return
    peaks = {name: matmul_peak(name) for name in ("float32", "bfloat16")}
    bandwidth = memory_bandwidth()
    limits = Table(
        "The machine's limits, measured in the same run:",
        ["limit", "measured"],
        [
            *(
                [f"matrix products, {name}", f"{rate / 1e9:.0f} GFLOP/s"]
                for name, rate in peaks.items()
            ),
            ["memory copy, read and write", f"{bandwidth / 1e9:.1f} GB/s"],
        ],
    )
    tables, targets, raw = [limits], [], {"peaks": peaks, "bandwidth": bandwidth}
    for key in given.workloads:
        load = WORKLOADS[key]
        rounds, per_round, warmup = ROUNDS[key]
        steps = {name: make() for name, make in contenders(load, given.nanogpt).items()}
        # As the command line does after its imports. Without it, all that the libraries left behind
        # is searched for garbage in between, in whoever's step it falls.
        gc.freeze()
        timed = interleave(steps, given.rounds or rounds, per_round, warmup)
        memory = {name: _memory_of(key, name, given) for name in timed}
        tables.append(_table(load, timed, memory, max(peaks.values())))
        targets += _targets(key, load, timed, memory, peaks)
        raw[key] = {
            name: {"seconds": samples.seconds, "peak_bytes": memory[name]}
            for name, samples in timed.items()
        }
    publish(
        Result(
            name="train_speed",
            title="Training speed",
            about="One process builds a model of the same shape and batch in each library; they "
            "take turns of a few steps. A step is forward, backward, clipping, update and reading "
            "the loss. Our MLP is gated and has the width that gives it the peers' number of "
            "parameters. Peak memory is that of a process of its own for each, less what the "
            "imports took.",
            tables=tables,
            targets=targets,
            notes=_notes(peaks),
            raw=raw,
        ),
        given.out,
    )


def _table(
    load: Workload, timed: dict[str, Samples], memory: dict[str, float], peak: float
) -> Table:
    ours = timed["minitx, muon"].median
    rows = [
        [
            name,
            f"{load.tokens / samples.median:,.0f}",
            f"{samples.median * 1e3:.1f} ms",
            f"{samples.spread:.1%}",
            f"{samples.median / ours:.2f}",
            f"{_model_rate(load) / samples.median / peak:.0%}",
            f"{memory[name] / 2**20:.0f} MiB",
        ]
        for name, samples in timed.items()
    ]
    columns = [
        "who", "tokens/s", "a step", "spread", "our speed over theirs", "of the product peak",
        "peak memory",
    ]  # fmt: skip
    return Table(
        f"{load.name}, context {load.context}, batch {load.batch} ({load.tokens:,} tokens a step):",
        columns,
        rows,
    )


def _model_rate(load: Workload) -> float:
    # Floating-point operations of a step, the optimizer's left out.
    return minitx_shape(load).flops_per_token * load.tokens


def _targets(
    key: str,
    load: Workload,
    timed: dict[str, Samples],
    memory: dict[str, float],
    peaks: dict[str, float],
) -> list[Target]:
    ours = timed["minitx, muon"].median
    found = []
    peers = {name: s for name, s in timed.items() if not name.startswith("minitx")}
    if key == "small":
        for name, samples in peers.items():
            factor = 2.5 if name == "nanoGPT" else 3.0
            ratio = samples.median / ours
            found.append(
                Target(f"at least {factor:g} times {name}", f"{ratio:.2f} times", ratio >= factor)
            )
        return found
    best = max(peaks.values())
    part = _model_rate(load) / ours / best
    name = max(peaks, key=lambda dtype: peaks[dtype])
    found.append(Target(f"at least 50 % of the {name} peak", f"{part:.0%}", part >= 0.5))
    for name in peers:
        mine, theirs = memory["minitx, muon"] / 2**20, memory[name] / 2**20
        found.append(
            Target(
                f"peak memory no higher than {name}'s",
                f"{mine:.0f} to {theirs:.0f} MiB",
                mine <= theirs,
            )
        )
    return found


def _notes(peaks: dict[str, float]) -> list[str]:
    if peaks["bfloat16"] > peaks["float32"]:
        return []
    return [
        "This processor has no bfloat16 arithmetic: its products in that format are slower than in "
        "float32, so that minitx trains in float32 here, as the peers do. Then the matrix products "
        "alone bound how much faster a step of the same shape can be."
    ]


def _memory_of(key: str, name: str, given: argparse.Namespace) -> float:
    command = [sys.executable, __file__, "--memory-of", key, name]
    if given.nanogpt:
        command += ["--nanogpt", str(given.nanogpt)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout.splitlines()[-1]))


def _memory_here(load: Workload, given: argparse.Namespace) -> float:
    make = contenders(load, given.nanogpt)[given.memory_of[1]]
    # Libraries load parts of themselves at first use; that is not the model's memory.
    torch.ones(1).requires_grad_().sum().backward()
    before = _resident("VmRSS")
    step = make()
    for _ in range(2):
        step()
    return _resident("VmHWM") - before


def _resident(line: str) -> float:
    for text in Path("/proc/self/status").read_text().splitlines():
        if text.startswith(line):
            return float(text.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {line}")


if __name__ == "__main__":
    main()
