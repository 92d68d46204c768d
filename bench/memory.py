"""Memory over 10,000 training steps: does it grow?

python bench/memory.py
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from harness import Result, Table, Target, publish

from minitx.training.observer import StepReport, TrainingObserver
from minitx.workflows.train import TrainRequest, train

SHAPE = {"n_layers": 2, "n_heads": 2, "d_model": 32, "context_length": 32}
TRAIN = {"batch_size": 4, "evaluate_every": 500, "checkpoint_every": 500, "log_every": 100}
SETTLED = 0.2
"""Part of the steps after which every buffer was once at its largest."""


class Resident(TrainingObserver):
    """Notes the resident memory with each logged step."""

    def __init__(self) -> None:
        self.mebibytes: dict[int, float] = {}

    def on_step(self, report: StepReport) -> None:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmRSS"):
                self.mebibytes[report.step] = float(line.split()[1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--out", type=Path, help="write the JSON here instead")
    given = parser.parse_args()
    seen = Resident()
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary:
        request = TrainRequest(
            model=SHAPE, train={**TRAIN, "steps": given.steps}, out=Path(temporary) / "run"
        )
        train(request, [seen])
    publish(_result(seen.mebibytes, given.steps, time.perf_counter() - began), given.out)


def _result(mebibytes: dict[int, float], steps: int, seconds: float) -> Result:
    # Averages over a tenth of the run: a single reading depends on what was freed just then.
    def mean(start: float, end: float) -> float:
        found = [m for step, m in mebibytes.items() if start * steps < step <= end * steps]
        return sum(found) / len(found)

    first, last = mean(SETTLED, SETTLED + 0.1), mean(0.9, 1.0)
    grown = last - first
    rows = [
        [f"steps {start:,.0f} to {start + steps / 10:,.0f}", f"{mean(part, part + 0.1):.1f} MiB"]
        for part in (0.0, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9)
        for start in (part * steps,)
    ]
    return Result(
        name="memory",
        title="Memory over 10,000 steps",
        about=f"`minitx train` of a small shape with an evaluation, a probe, a sample and a "
        f"checkpoint every {TRAIN['evaluate_every']} steps: resident memory of the process, read "
        f"every {TRAIN['log_every']} steps.",
        tables=[Table("Average resident memory:", ["when", "memory"], rows)],
        targets=[
            Target(
                f"no growth from step {SETTLED * steps:,.0f} on (2 MiB are noise)",
                f"{grown:+.1f} MiB",
                grown < 2.0,
            )
        ],
        notes=[f"{steps:,} steps took {seconds:.0f} s."],
        raw={"mebibytes": {str(step): value for step, value in mebibytes.items()}},
    )


if __name__ == "__main__":
    main()
