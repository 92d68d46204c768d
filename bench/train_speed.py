"""Training tokens a second and peak memory, beside nanoGPT and transformers.

python bench/train_speed.py --nanogpt PATH
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import train_shapes
from harness import (
    Result,
    Samples,
    Table,
    Target,
    interleave,
    kind_of_cpu,
    memory_bandwidth,
    publish,
)
from peak import arithmetic_peak, product_peak
from peers import COMPILED, WORKLOADS, Workload, compiles_for_cpu, contenders, minitx_shape

ROUNDS = {"small": (8, 10), "large": (5, 1)}
"""Turns of each contender, and timed steps in a turn."""

MUON, ADAMW = "minitx, muon", "minitx, adamw"


@dataclass(frozen=True)
class Aims:
    """What we aim at on a kind of processor.

    Attributes:
        small: at the small shape: our optimizer, whom we compare with (how its name begins), and
            how many times as fast we want to be.
        large: the same at the large one.
        peak: part of the product peak at the large shape, with Muon.
        memory: part of nanoGPT's peak memory at the large shape.
    """

    small: tuple[tuple[str, str, float], ...]
    large: tuple[tuple[str, str, float], ...]
    peak: float
    memory: float


FLOAT32 = Aims(
    small=((ADAMW, "nanoGPT", 1.7), (ADAMW, "transformers", 2.0), (MUON, "nanoGPT", 1.4)),
    large=((MUON, "nanoGPT", 1.25),),
    peak=0.8,
    memory=0.5,
)
BFLOAT16 = Aims(
    small=((MUON, "nanoGPT", 3.0), (MUON, "transformers", 3.0)),
    large=((MUON, "nanoGPT", 4.0),),
    peak=0.8,
    memory=0.5,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nanogpt", type=Path, help="a checkout of karpathy/nanoGPT")
    parser.add_argument("--out", type=Path, help="write the JSON here instead")
    parser.add_argument("--rounds", type=int, help="turns of each contender")
    parser.add_argument(
        "--workloads", nargs="+", choices=[*WORKLOADS, "shapes"], default=[*WORKLOADS, "shapes"]
    )
    parser.add_argument(
        "--memory-of", nargs=2, metavar=("WORKLOAD", "NAME"), help=argparse.SUPPRESS
    )
    given = parser.parse_args()
    if given.memory_of:
        print(json.dumps(_memory_here(WORKLOADS[given.memory_of[0]], given)))
        return
    with tempfile.TemporaryDirectory() as compiled:
        # What torch compiled in an earlier run would be taken from there.
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = compiled
        publish(_measured(given), given.out)


def _measured(given: argparse.Namespace) -> Result:
    aims = BFLOAT16 if kind_of_cpu().endswith("-bf16") else FLOAT32
    limits, raw = _limits()
    peak = max(raw["products"].values())
    tables, targets, notes = [limits], [], []
    for key in (key for key in given.workloads if key in WORKLOADS):
        found = _of_workload(key, given)
        tables.append(_table(WORKLOADS[key], found, peak))
        targets += _targets(key, found, peak, aims)
        raw[key] = {
            name: {"seconds": one.samples.seconds, "first": one.first, "peak_bytes": one.memory}
            for name, one in found.items()
        }
    if given.nanogpt and not compiles_for_cpu():
        notes.append(f"{COMPILED} was not measured: there is no C++ compiler here.")
    if not given.nanogpt:
        notes.append(
            "nanoGPT was not measured, nor the twelve shapes: there was no checkout of it."
        )
    elif "shapes" in given.workloads:
        shapes = train_shapes.measure(given.nanogpt)
        tables.append(train_shapes.table(shapes))
        targets += train_shapes.targets(shapes)
        notes.append(train_shapes.ABOUT_MUON)
        raw["shapes"] = [
            {name: samples.seconds for name, samples in of_shape.items()} for of_shape in shapes
        ]
    return Result(
        name="train_speed",
        title="Training speed",
        about="One process builds a model of the same shape and batch in each library; they "
        "take turns of a few steps. A step is forward, backward, clipping, update and reading "
        "the loss; the first one also loads and, with torch.compile, compiles. Our MLP is gated "
        "and has the width that gives it the peers' number of parameters. The product peak is the "
        "best rate of torch's products in the limits above; products of our own kernels may be "
        "faster, up to what arithmetic in registers allows. Six operations count for each weight "
        "and token, and the causal half of attention's products; those of the optimizer don't. "
        "Peak memory is that of a process of its own for each, less what the imports took.",
        tables=tables,
        targets=targets,
        notes=notes,
        raw=raw,
    )


def _limits() -> tuple[Table, dict[str, dict[str, float]]]:
    rows, raw = [], {"products": {}, "arithmetic": {}}
    for name in ("float32", "bfloat16"):
        raw["products"][name], size = product_peak(name)
        rate = f"{raw['products'][name] / 1e9:.0f} GFLOP/s, {size} square"
        rows.append([f"torch's matrix products, {name}, the best of several sizes", rate])
    for name in ("float32", "bfloat16"):
        raw["arithmetic"][name] = rate = arithmetic_peak(name)
        words = f"{rate / 1e9:.0f} GFLOP/s" if rate == rate else "not measured"
        rows.append([f"arithmetic in registers, {name}", words])
    raw["memory"] = {"copy": memory_bandwidth()}
    rows.append(["memory copy, read and write", f"{raw['memory']['copy'] / 1e9:.1f} GB/s"])
    caption = "The machine's limits, measured in the same run:"
    return Table(caption, ["limit", "measured"], rows), raw


@dataclass(frozen=True)
class Contender:
    """What was measured of one: seconds of its first step and of others, peak memory in bytes."""

    first: float
    samples: Samples
    memory: float


def _of_workload(key: str, given: argparse.Namespace) -> dict[str, Contender]:
    rounds, per_round = ROUNDS[key]
    steps, first = {}, {}
    for name, make in contenders(WORKLOADS[key], given.nanogpt).items():
        steps[name] = make()
        began = time.perf_counter()
        steps[name]()
        first[name] = time.perf_counter() - began
    # As the command line does after its imports. Without it, all that the libraries left behind
    # is searched for garbage in between, in whoever's step it falls.
    gc.freeze()
    timed = interleave(steps, given.rounds or rounds, per_round, warmup=1)
    gc.unfreeze()
    return {
        name: Contender(first[name], samples, _memory_of(key, name, given))
        for name, samples in timed.items()
    }


def _table(load: Workload, found: Mapping[str, Contender], peak: float) -> Table:
    ours = found[MUON].samples.median
    rows = [
        [
            name,
            f"{load.tokens / one.samples.median:,.0f}",
            f"{one.samples.median * 1e3:.1f} ms",
            f"{one.samples.spread:.1%}",
            f"{one.first:.1f} s",
            f"{one.samples.median / ours:.2f}",
            f"{_model_rate(load) / one.samples.median / peak:.0%}",
            f"{one.memory / 2**20:.0f} MiB",
        ]
        for name, one in found.items()
    ]
    columns = [
        "who", "tokens/s", "a step", "spread", "first step", "our speed over theirs",
        "of the product peak", "peak memory",
    ]  # fmt: skip
    return Table(
        f"{load.name}, context {load.context}, batch {load.batch} ({load.tokens:,} tokens a step):",
        columns,
        rows,
    )


def _model_rate(load: Workload) -> float:
    # Floating-point operations of a step, the optimizer's left out.
    return minitx_shape(load).flops_per_token * load.tokens


def _targets(key: str, found: Mapping[str, Contender], peak: float, aims: Aims) -> list[Target]:
    load = WORKLOADS[key]
    shape = load.name.partition(":")[0]
    targets = []
    for ours, peer, factor in aims.small if key == "small" else aims.large:
        for name in found:
            if name.startswith(peer) and name != COMPILED:
                ratio = found[name].samples.median / found[ours].samples.median
                aim = f"{shape}, {ours}: at least {factor:g} times {name}"
                targets.append(Target(aim, f"{ratio:.2f} times", ratio >= factor))
    if key == "small":
        return targets
    part = _model_rate(load) / found[MUON].samples.median / peak
    aim = f"{shape}, {MUON}: at least {aims.peak:.0%} of the product peak"
    targets.append(Target(aim, f"{part:.0%}", part >= aims.peak))
    if "nanoGPT" in found:
        mine, theirs = (found[name].memory / 2**20 for name in (MUON, "nanoGPT"))
        aim = f"{shape}: at most {aims.memory:.0%} of nanoGPT's peak memory"
        measured = f"{mine:.0f} of {theirs:.0f} MiB"
        targets.append(Target(aim, measured, mine <= aims.memory * theirs))
    return targets


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
