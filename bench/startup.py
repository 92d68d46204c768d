"""From a command to what a person waits for, beside the time that `import torch` takes.

python bench/startup.py
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from harness import Result, Samples, Table, Target, publish

IMPORT, HELP, STEP = "import torch", "minitx --help", "minitx train, to its first step"
TOKEN, BUDGET = "minitx generate, one token", "minitx train --budget 3s, to its end"
BUDGET_SECONDS = 3.0

FIRST_STEP = 1.5
ONE_TOKEN = 1.2
WHOLE_BUDGET = 1.1
"""Of the budget and `import torch` together."""

_TINY = ("--steps", "20", "--layers", "2", "--heads", "2", "--d-model", "64", "--context", "64")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="write the JSON here instead")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        found = _measured(Path(temporary), given.rounds)
    publish(_result(found), given.out)


def _measured(directory: Path, rounds: int) -> dict[str, Samples]:
    run = directory / "run"
    _minitx("train", *_TINY, "--out", str(run))
    numbers = iter(range(10_000))

    def new_run() -> str:
        return str(directory / f"new-{next(numbers)}")

    contenders: dict[str, Callable[[], float]] = {
        IMPORT: lambda: _whole([sys.executable, "-c", "import torch"]),
        HELP: lambda: _minitx("--help"),
        STEP: lambda: _first_step(new_run()),
        TOKEN: lambda: _minitx("generate", str(run), "--prompt", "The", "--max-new-tokens", "1"),
        BUDGET: lambda: _minitx("train", "--budget", f"{BUDGET_SECONDS:g}s", "--out", new_run()),
    }
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    # The first turn finds files that are not in memory yet.
    for turn in range(rounds + 1):
        for name, contender in contenders.items():
            took = contender()
            if turn:
                seconds[name].append(took)
    return {name: Samples(tuple(values)) for name, values in seconds.items()}


def _minitx(*arguments: str) -> float:
    return _whole([sys.executable, "-m", "minitx", *arguments])


def _whole(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - began


def _first_step(out: str) -> float:
    # The first step is done when its line comes through the pipe.
    command = [sys.executable, "-m", "minitx", "train", "--budget", "3m", "--out", out]
    began = time.perf_counter()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        line = next((line for line in process.stdout if line.startswith("step ")), None)
        took = time.perf_counter() - began
        process.kill()
    if line is None:
        raise SystemExit(f"no step was printed by: {' '.join(command)}")
    return took


def _result(found: dict[str, Samples]) -> Result:
    def over(name: str, plus: float = 0.0) -> float:
        # Each beside the import of its own turn: whatever slows the machine slows both.
        pairs = zip(found[name].seconds, found[IMPORT].seconds, strict=True)
        return statistics.median(took / (plus + imported) for took, imported in pairs)

    step, token, budget = over(STEP), over(TOKEN), over(BUDGET, BUDGET_SECONDS)
    rows = [
        [name, f"{samples.median:.2f} s", f"{samples.spread:.0%}", f"{over(name):.2f}"]
        for name, samples in found.items()
    ]
    return Result(
        name="startup",
        title="Starting",
        about="Whole processes, which take turns: Python with `import torch` and nothing else, and "
        "minitx on its embedded corpus, from the command to what is named. A training run before "
        "its first step has read and tokenized the text, planned the run and saved it once.",
        tables=[
            Table(
                "Median of the turns; the ratio is that to the import in the same turn:",
                ["what", "seconds", "spread", "times import torch"],
                rows,
            )
        ],
        targets=[
            Target(f"first step in at most {FIRST_STEP} times", f"{step:.2f}", step <= FIRST_STEP),
            Target(f"one token in at most {ONE_TOKEN} times", f"{token:.2f}", token <= ONE_TOKEN),
            Target(
                f"a budget of {BUDGET_SECONDS:g} s in at most {WHOLE_BUDGET} times the budget and "
                "the import together",
                f"{budget:.2f}",
                budget <= WHOLE_BUDGET,
            ),
        ],
        raw={name: list(samples.seconds) for name, samples in found.items()},
    )


if __name__ == "__main__":
    main()
