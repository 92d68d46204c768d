"""A machine that is not ours alone: speed beside nanoGPT, budgets, results and plans while other
processes keep the processors busy.

python bench/busy.py --nanogpt PATH
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from harness import Result, Table, Target, publish
from plan import planned

from minitx.checkpoint.rundir import resolve_checkpoint
from minitx.compute import choose_compute
from minitx.files import file_digest
from minitx.training.machine_speed import measure_speed
from minitx.workflows.train import FinishedRun, TrainRequest, train

TURNS = 3
TURN_SECONDS = 1.0

OFF = 0.05
"""How far a run may end from its budget, as a part of it."""

PLANS = 20
"""Of one command: half of them while others are busy."""

_BUSY = "import os; ours = os.getppid()\nwhile os.getppid() == ours: sum(range(100_000))"
_STEPPER = """
import gc, sys, time
from pathlib import Path
if sys.argv[1] == "minitx":
    import minitx
from peers import NANOGPT_CPU, minitx_step, nanogpt_step
ours = sys.argv[1] == "minitx"
step = minitx_step(NANOGPT_CPU) if ours else nanogpt_step(NANOGPT_CPU, Path(sys.argv[2]))
gc.freeze()
for line in sys.stdin:
    step()
    began, n = time.perf_counter(), 0
    while time.perf_counter() - began < float(line):
        step()
        n += 1
    print((time.perf_counter() - began) / n, flush=True)
"""
"""A process that does steps for so many seconds each time it is asked, and says what one took."""

_SHAPE = {"n_layers": 2, "d_model": 64, "n_heads": 2, "context_length": 64}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--nanogpt", type=Path, help="a checkout of karpathy/nanoGPT")
    parser.add_argument("--others", type=int, nargs="+", default=[2, 4, 8], help="busy processes")
    parser.add_argument("--budget", type=float, default=20.0, help="seconds of the runs")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--out", type=Path, help="write the JSON here instead")
    given = parser.parse_args()
    tables, targets, raw = [], [], {}
    with tempfile.TemporaryDirectory() as work:
        # What is known of this machine is measured for this bench alone.
        os.environ["XDG_CACHE_HOME"] = work
        for name in given.only:
            table, aims, numbers = PARTS[name](given, Path(work))
            tables.append(table)
            targets += aims
            raw[name] = numbers
            print(name, numbers, file=sys.stderr, flush=True)
    publish(
        Result(
            name="busy",
            title="A machine that is not ours alone",
            about="Other processes, each of which adds numbers without end, run beside ours. The "
            "slowdown is that of a training step of nanoGPT's CPU recipe, ours and nanoGPT's in "
            "turn and each in a process of its own: the time of a step beside so many others, over "
            "that without them.",
            tables=tables,
            targets=targets,
            raw=raw,
        ),
        given.out,
    )


@contextlib.contextmanager
def others(n: int) -> Iterator[None]:
    """So many busy processes."""
    started = [subprocess.Popen([sys.executable, "-c", _BUSY]) for _ in range(n)]
    try:
        time.sleep(0.5 if n else 0.0)
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


Part = tuple[Table, list[Target], object]


def _slowdown(given: argparse.Namespace, work: Path) -> Part:
    names = ["minitx", *(["nanoGPT"] if given.nanogpt else [])]
    seconds = {}
    with contextlib.ExitStack() as stack:
        steppers = {name: stack.enter_context(_stepper(name, given.nanogpt)) for name in names}
        for n in (0, *given.others):
            with others(n):
                seconds[n] = _step_seconds(steppers)
            print(n, seconds[n], file=sys.stderr, flush=True)
    rows, targets = [], []
    for n in given.others:
        slower = {name: seconds[n][name] / seconds[0][name] for name in names}
        rows.append([str(n), *(f"{slower[name]:.2f}" for name in names)])
        if given.nanogpt:
            ours, theirs = slower.values()
            told = f"{ours:.2f} to {theirs:.2f} times as long"
            aim = f"beside {n} others slowed down no more than nanoGPT"
            targets.append(Target(aim, told, ours <= theirs))
    return Table("Slowdown of a step:", ["others", *names], rows), targets, seconds


@contextlib.contextmanager
def _stepper(name: str, nanogpt: Path | None) -> Iterator[subprocess.Popen[str]]:
    # Each in a process as it would be without the other: `import minitx` sets how threads wait.
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    environment = {key: value for key, value in os.environ.items() if key != "OMP_WAIT_POLICY"}
    command = [sys.executable, "-c", _STEPPER, name, str(nanogpt)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**environment, "PYTHONPATH": path},
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _step_seconds(steppers: dict[str, subprocess.Popen[str]]) -> dict[str, float]:
    # In whole turns: a single step has both processors to itself, or has not.
    turns: dict[str, list[float]] = {name: [] for name in steppers}
    for _ in range(TURNS):
        for name, process in steppers.items():
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(f"{TURN_SECONDS}\n")
            process.stdin.flush()
            turns[name].append(float(process.stdout.readline()))
    return {name: statistics.median(found) for name, found in turns.items()}


def _budgets(given: argparse.Namespace, work: Path) -> Part:
    rows, targets, numbers = [], [], {}
    for n in (0, *given.others):
        with others(n):
            end = _run(work / "budget", budget_seconds=given.budget).end
        print(n, end, file=sys.stderr, flush=True)
        off = end.elapsed_seconds / given.budget - 1
        numbers[n] = end.elapsed_seconds
        rows.append([str(n), f"{end.elapsed_seconds:.1f} s", f"{off:+.1%}", f"{end.step:,}"])
        aim = f"a budget beside {n} others ends within {OFF:.0%}"
        targets.append(Target(aim, f"{off:+.1%}", abs(off) <= OFF))
    caption = f"A budget of {given.budget:.0f} s:"
    return Table(caption, ["others", "took", "off by", "steps"], rows), targets, numbers


def _results(given: argparse.Namespace, work: Path) -> Part:
    digests = {}
    for n in (0, *given.others):
        with others(n):
            run = _run(work / "steps", _SHAPE, steps=200, batch_size=12).run
        digests[n] = file_digest(resolve_checkpoint(run) / "model.safetensors")
    same = len(set(digests.values())) == 1
    rows = [[str(n), digest[:12]] for n, digest in digests.items()]
    target = Target("the same bits with --steps", "the same" if same else "other bits", same)
    return Table("Weights after 200 steps:", ["others", "SHA-256"], rows), [target], digests


def _stopped(given: argparse.Namespace, work: Path) -> Part:
    # SIGSTOP, and SIGCONT after a while: a process of its own does both to this one.
    pause = max(5.0, given.budget / 4)
    script = (
        "import os, signal, sys, time; pid, *waits = sys.argv[1:];"
        "pid, first, pause = int(pid), *map(float, waits);"
        "time.sleep(first); os.kill(pid, signal.SIGSTOP); time.sleep(pause);"
        "os.kill(pid, signal.SIGCONT)"
    )
    began = time.perf_counter()
    command = [sys.executable, "-c", script, str(os.getpid()), str(given.budget / 2), str(pause)]
    stopper = subprocess.Popen(command)
    end = _run(work / "stopped", budget_seconds=given.budget).end
    wall = time.perf_counter() - began
    stopper.wait()
    off = end.elapsed_seconds / given.budget - 1
    row = [f"{pause:.0f} s", f"{wall:.1f} s", f"{end.elapsed_seconds:.1f} s", f"{off:+.1%}"]
    aim = f"stopped in the middle, the training itself takes its time within {OFF:.0%}"
    target = Target(aim, f"{off:+.1%}", abs(off) <= OFF)
    columns = ["stopped for", "the whole call", "of it training", "off by"]
    return Table("SIGSTOP in the middle of a budget:", columns, [row]), [target], [wall, off]


def _plans(given: argparse.Namespace, work: Path) -> Part:
    plans, speeds = [], {}
    for n in (max(given.others), 0):
        with others(n):
            # Each of them anew, to see what it would have been if this had been the first run.
            compute = choose_compute("cpu", "auto")
            os.environ["XDG_CACHE_HOME"] = str(work / f"beside {n}")
            speeds[n] = measure_speed(compute, "auto").rate
            os.environ["XDG_CACHE_HOME"] = str(work)
            for _ in range(PLANS // 2):
                request = TrainRequest(train={"budget_seconds": given.budget}, out=work / "plan")
                plans.append(asdict(planned(request)))
    same = all(plan == plans[0] for plan in plans)
    rows = [[str(n), f"{rate / 1e9:.0f} G/s"] for n, rate in speeds.items()]
    aim = f"{PLANS} plans of one command, half of them beside {max(given.others)} others, are one"
    target = Target(aim, "the same" if same else "not the same", same)
    caption = "Operations of training a second, as the first run would have measured them:"
    return Table(caption, ["others", "rate"], rows), [target], speeds


PARTS = {
    "slowdown": _slowdown, "budgets": _budgets, "results": _results, "stopped": _stopped,
    "plans": _plans,
}  # fmt: skip


def _run(out: Path, model: dict[str, int] | None = None, **keys: float) -> FinishedRun:
    shutil.rmtree(out, ignore_errors=True)
    return train(TrainRequest(model=model or {}, train=keys, out=out), [])


if __name__ == "__main__":
    main()
