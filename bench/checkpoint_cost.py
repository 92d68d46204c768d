"""What a checkpoint costs the training that goes on beside its writing.

python bench/checkpoint_cost.py
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
import time
from pathlib import Path

from harness import Result, Table, Target, publish
from peers import SHAKESPEARE_GPU

from minitx.checkpoint.rundir import RunDirectory
from minitx.training.observer import StepReport, TrainingObserver
from minitx.training.planning import DEFAULT_BUDGET_SECONDS, SECONDS_BETWEEN_EVALUATIONS
from minitx.workflows.train import TrainRequest, train

PERIOD = 12
"""Steps from one checkpoint to the next."""

TOUCHED = 4
"""Steps after a checkpoint in which its copying and writing are over."""

ALLOWED = 0.02

SHAPE = {
    "n_layers": SHAKESPEARE_GPU.layers,
    "n_heads": SHAKESPEARE_GPU.heads,
    "d_model": SHAKESPEARE_GPU.width,
    "context_length": SHAKESPEARE_GPU.context,
}


class Ends(TrainingObserver):
    """Notes when each step ended."""

    def __init__(self) -> None:
        self.seconds: dict[int, float] = {}

    def on_step(self, report: StepReport) -> None:
        self.seconds[report.step] = time.perf_counter()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoints", type=int, default=14)
    parser.add_argument("--out", type=Path, help="write the JSON here instead")
    given = parser.parse_args()
    ends = Ends()
    with tempfile.TemporaryDirectory() as temporary:
        run = Path(temporary) / "run"
        steps = PERIOD * (given.checkpoints + 1)
        timing = {"steps": steps, "checkpoint_every": PERIOD, "evaluate_every": steps}
        request = TrainRequest(
            data={"corpus": ()}, model=SHAPE, train={**timing, "log_every": 1}, out=run
        )
        train(request, [ends])
        tokens = RunDirectory.open(run).read_config().train.batch_size * SHAPE["context_length"]
        newest = max((run / "checkpoints").glob("step-*"))
        n_bytes = sum(file.stat().st_size for file in newest.iterdir())
    publish(_result(ends.seconds, given.checkpoints, tokens, n_bytes), given.out)


def _result(ends: dict[int, float], checkpoints: int, tokens: int, n_bytes: int) -> Result:
    # A run has a dozen checkpoints, and they are not closer than this.
    planned = max(SECONDS_BETWEEN_EVALUATIONS, DEFAULT_BUDGET_SECONDS / 12)
    took = {step: ends[step] - ends[step - 1] for step in ends if step - 1 in ends}
    # The first period grows the buffers. A checkpoint after step k is copied before step k + 1.
    costs, ordinary = [], []
    for number in range(1, checkpoints + 1):
        after = [took[number * PERIOD + i] for i in range(1, TOUCHED + 1)]
        later = [took[number * PERIOD + i] for i in range(TOUCHED + 1, PERIOD)]
        ordinary += later
        costs.append(sum(after) - TOUCHED * statistics.median(later))
    step, cost = statistics.median(ordinary), statistics.mean(costs)
    error = statistics.stdev(costs) / math.sqrt(len(costs))
    share = cost / planned
    rows = [
        ["a step", f"{step * 1e3:,.0f} ms of {tokens:,} tokens"],
        ["a checkpoint on the disk", f"{n_bytes / 1e6:,.0f} MB"],
        ["what it costs the steps beside it", f"{cost * 1e3:,.0f} ms"],
        ["standard error of that", f"{error * 1e3:,.0f} ms"],
        [f"of the time, one every {planned:.0f} s (5 minutes, as planned)", f"{share:.2%}"],
        ["seconds between checkpoints from which on it is 2 %", f"{cost / ALLOWED:,.1f}"],
    ]
    return Result(
        name="checkpoint_cost",
        title="What a checkpoint costs",
        about=f"`minitx train` at {SHAKESPEARE_GPU.name} with the planned batch, and a checkpoint "
        f"every {PERIOD} steps, {checkpoints} in all. The loop copies weights and optimizer state; "
        "a thread writes, hashes and flushes them while the next steps run. The cost of one is "
        f"the time of the {TOUCHED} steps after it less that of as many of the others before the "
        "next, which have nothing beside them.",
        tables=[Table("Measured:", ["what", "value"], rows)],
        targets=[
            Target("under 2 % of the time, at the planned period", f"{share:.2%}", share < ALLOWED)
        ],
        raw={"costs": costs, "step": step, "bytes": n_bytes, "planned_seconds": planned},
    )


if __name__ == "__main__":
    main()
