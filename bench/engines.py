"""What a training step takes with each engine of minitx.

python bench/engines.py
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

from harness import Result, Samples, Table, interleave, publish
from peers import NANOGPT_CPU, compiles_for_cpu, minitx_step

ENGINES = ("native", "torch-compile", "plain")
ROUNDS, STEPS = 8, 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="write the JSON here instead")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as compiled:
        # What torch compiled in an earlier run would be taken from there.
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = compiled
        publish(_measured(), given.out)


def _measured() -> Result:
    steps, first = {}, {}
    for engine in ENGINES:
        if engine == "torch-compile" and not compiles_for_cpu():
            continue
        began = time.perf_counter()
        steps[engine] = minitx_step(NANOGPT_CPU, engine=engine)
        steps[engine]()
        first[engine] = time.perf_counter() - began
    timed = interleave(steps, ROUNDS, STEPS, warmup=1)
    missing = [] if compiles_for_cpu() else ["torch-compile: there is no C++ compiler here."]
    return Result(
        name="engines",
        title="Engines",
        about="One process trains a model with each engine, `--engine`, at nanoGPT's CPU shape, "
        "with Muon and the number format that the plan chooses; they take turns of a few steps. "
        "The first step also loads or compiles. Muon's own kernels stay in use.",
        tables=[_table(timed, first)],
        targets=[],
        notes=missing,
        raw={name: {"seconds": one.seconds, "first": first[name]} for name, one in timed.items()},
    )


def _table(timed: dict[str, Samples], first: dict[str, float]) -> Table:
    best = timed["native"].median
    rows = [
        [
            name, f"{one.median * 1e3:.1f} ms", f"{one.spread:.1%}", f"{first[name]:.1f} s",
            f"{one.median / best:.2f}",
        ]
        for name, one in timed.items()
    ]  # fmt: skip
    columns = ["engine", "a step", "spread", "first step", "native's speed over it"]
    load = NANOGPT_CPU
    return Table(f"{load.name}, context {load.context}, batch {load.batch}:", columns, rows)


if __name__ == "__main__":
    main()
