"""One of several processes dies, hangs or is asked to stop at a random instant; then resume.

    python tests/campaigns/deaths.py --deaths 100 --seed 1

Each run is killed and resumed until it ends, often in another number of processes; half of the
deaths are inside the write of a checkpoint. After each, all processes must end within 30 seconds;
at the end, the losses must be those of a run in one process that was never killed.
"""

import argparse
import contextlib
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

from kill import being_written
from victims import RunDirectory, forked, request, scratch, table

from minitx.training import heartbeat
from minitx.workflows.resume import ResumeRequest, resume
from minitx.workflows.train import train

STEPS = 24
EVERY = 2
SIZES = (2, 4)
TOLERANCE = 1e-5
"""Of a loss: sums over another number of processes are rounded otherwise."""

VARIANTS = (
    {"optimizer": "muon", "accumulation": 4, "dropout": 0.1},
    {"optimizer": "adamw", "accumulation": 4, "dropout": 0.0},
)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--deaths", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no run after")
    options = parser.parse_args()
    # In a campaign nothing is slow enough to be mistaken for hanging.
    heartbeat.HANGS_AFTER = 8.0
    until = time.monotonic() + options.seconds
    chance = random.Random(options.seed)
    names = (
        "deaths", "killed", "hung", "asked to stop", "inside", "of the first", "elsewhere",
        "runs", "lost", "different", "late", "apart",
    )  # fmt: skip
    counts = dict.fromkeys(names, 0)
    os.environ["MINITX_MEETING_SECONDS"] = "15"
    with scratch() as directory, a_store() as port:
        os.environ.update({"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)})
        os.environ["VICTIM_ERRORS"] = str(directory / "error")  # of a run in one process
        wanted = [reference(directory, number) for number in range(len(VARIANTS))]
        while counts["deaths"] < options.deaths and time.monotonic() < until:
            number = counts["runs"] % len(VARIANTS)
            live_and_die(directory, number, wanted[number], options.deaths, chance, counts)
    table(
        f"death campaign, seed {options.seed}",
        [
            ("deaths of one of 2 or 4 processes", counts["deaths"]),
            ("by SIGKILL", counts["killed"]),
            ("by SIGSTOP, for good", counts["hung"]),
            ("by SIGTERM", counts["asked to stop"]),
            ("inside the write of a checkpoint", counts["inside"]),
            ("of the process that has the run", counts["of the first"]),
            ("sessions that went on in another number of processes", counts["elsewhere"]),
            ("runs brought to their end", counts["runs"]),
            ("sessions not over within 30 seconds", counts["late"]),
            ("runs lost", counts["lost"]),
            ("runs whose losses differ", counts["different"]),
            ("largest difference of a loss", f"{counts['apart']:.1e}"),
        ],
    )
    return 1 if counts["lost"] or counts["different"] or counts["late"] else 0


def a_request(directory, run, number):
    keys = {"steps": STEPS, "checkpoint_every": EVERY, "evaluate_every": 5 * EVERY}
    return request(directory, run, VARIANTS[number], **keys)


def reference(directory, number):
    run = directory / f"uncut-{number}"
    _, status = os.waitpid(forked(lambda: train(a_request(directory, run, number), [])), 0)
    assert status == 0, (directory / "error").read_text()
    return losses(run)


def losses(run):
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return {line["step"]: line["loss"] for line in lines if line["kind"] == "step"}


SESSIONS = itertools.count()


@contextlib.contextmanager
def a_store():
    """The port of a store as torchrun keeps one: it outlives those that meet there."""
    code = (
        "import sys; from torch.distributed import TCPStore\n"
        "store = TCPStore('localhost', 0, is_master=True, wait_for_workers=False)\n"
        "print(store.port, flush=True); sys.stdin.read()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], **pipes) as process:
        yield int(process.stdout.readline())
        process.stdin.close()


def start(directory, run, number, size):
    """Begin a run in so many processes, or go on with it if it can be."""
    goes_on, session = bool(RunDirectory(run).steps()), next(SESSIONS)

    def work(rank):
        os.environ["VICTIM_ERRORS"] = str(error_file(directory, rank))
        about = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size}
        about |= {"TORCHELASTIC_USE_AGENT_STORE": True, "TORCHELASTIC_RESTART_COUNT": session}
        os.environ.update({name: str(value) for name, value in about.items()})
        if goes_on:
            resume(ResumeRequest(run), [])
        else:
            train(a_request(directory, run, number), [])

    for rank in range(max(SIZES)):
        error_file(directory, rank).unlink(missing_ok=True)
    return [forked(lambda rank=rank: work(rank)) for rank in range(size)]


def error_file(directory, rank):
    return directory / f"error-{rank}"


def live_and_die(directory, number, wanted, most_deaths, chance, counts):
    run, size = directory / f"killed-{counts['runs']}", None
    while True:
        before, size = size, chance.choice(SIZES)
        counts["elsewhere"] += before not in (None, size)
        children = start(directory, run, number, size)
        died, hung = False, None
        if counts["deaths"] < most_deaths:
            died, hung = die(children, run, chance, counts)
        codes = finish(children, hung, counts)
        if not died or set(codes) == {0}:
            break
    counts["runs"] += 1
    if set(codes) != {0} and not has_ended(run):
        counts["lost"] += 1
        print(f"run {run.name} can't be resumed: exit codes {codes}", file=sys.stderr)
        for path in sorted(directory.glob("error-*")):
            print(f"  {path.name}: {path.read_text()}", file=sys.stderr)
        shutil.rmtree(run, ignore_errors=True)
        return
    own = losses(run)
    apart = max((abs(own[step] - wanted[step]) for step in own if step in wanted), default=0.0)
    counts["apart"] = max(counts["apart"], apart)
    if own.keys() != wanted.keys() or not apart <= TOLERANCE:
        counts["different"] += 1
        about = f"by {apart:.1e}" if own.keys() == wanted.keys() else f"in its steps, {len(own)}"
        print(f"run {run.name} differs {about} from the one never killed", file=sys.stderr)
    shutil.rmtree(run)


def die(children, run, chance, counts):
    """Let one of them die; whether it did before all had ended, and which one hangs."""
    deadline = time.monotonic() + 20
    wants_write = 2 * counts["inside"] <= counts["deaths"]
    until = time.monotonic() + chance.random() * 3
    while time.monotonic() < (deadline if wants_write else until):
        if wants_write and being_written(run) is not None and chance.random() < 0.3:
            break
        if has_ended(run):
            return False, None
        time.sleep(0.0005)
    victim = chance.randrange(len(children))
    signal_number = chance.choices((signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM), (6, 1, 3))[0]
    inside = being_written(run) is not None
    os.kill(children[victim], signal_number)
    counts["deaths"] += 1
    names = {signal.SIGKILL: "killed", signal.SIGSTOP: "hung", signal.SIGTERM: "asked to stop"}
    counts[names[signal_number]] += 1
    counts["inside"] += inside
    counts["of the first"] += victim == 0
    return True, children[victim] if signal_number == signal.SIGSTOP else None


def finish(children, hung, counts):
    """Exit codes of all; those that do not end are killed, and counted as late."""
    codes, left, seconds, last = {}, set(children), 0.0, time.monotonic()
    while left:
        # Only while this process itself was not stopped: then the others were stopped, too.
        seconds, last = seconds + min(time.monotonic() - last, 0.5), time.monotonic()
        for child in list(left):
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                codes[child] = os.waitstatus_to_exitcode(status)
                left.discard(child)
        if left == {hung}:
            # Nobody is left to wait for it, or to end it.
            os.kill(hung, signal.SIGKILL)
        elif seconds > 30:
            counts["late"] += 1
            late = [children.index(child) for child in left]
            print(f"not over after 30 s: ranks {late} of {len(children)}", file=sys.stderr)
            for child in left:
                os.kill(child, signal.SIGKILL)
            seconds = -1e9
        time.sleep(0.01)
    return [codes[child] for child in children]


def has_ended(run):
    try:
        last = (run / "metrics.jsonl").read_bytes().splitlines()[-1]
        return json.loads(last)["kind"] == "end"
    except (OSError, IndexError, ValueError):
        return False


if __name__ == "__main__":
    sys.exit(main())
