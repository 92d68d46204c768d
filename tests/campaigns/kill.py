"""SIGKILL at random instants, half of them inside the write of a checkpoint; then resume.

    python tests/campaigns/kill.py --kills 500 --seed 1

Each run is killed and resumed until it ends; then its metrics and weights must be those of a run
that was never killed, to the bit.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import time

from victims import VARIANTS, RunDirectory, finish, request, result, scratch, start, table

from minitx.errors import BadInputError

STEPS = 40
EVERY = 2


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no run after")
    options = parser.parse_args()
    until = time.monotonic() + options.seconds
    chance = random.Random(options.seed)
    counts = dict.fromkeys(
        ("kills", "inside", "before", "resumed", "runs", "ended", "lost", "different", "torn"), 0
    )
    with scratch() as directory:
        os.environ["VICTIM_ERRORS"] = str(directory / "error")
        wanted = [reference(directory, number) for number in range(len(VARIANTS))]
        while counts["kills"] < options.kills and time.monotonic() < until:
            number = counts["runs"] % len(VARIANTS)
            live_and_die(directory, number, wanted[number], options.kills, chance, counts)
    table(
        f"kill campaign, seed {options.seed}",
        [
            ("SIGKILLs", counts["kills"]),
            ("inside the write of a checkpoint", counts["inside"]),
            ("before the first checkpoint (no step was done)", counts["before"]),
            ("sessions that went on from a checkpoint", counts["resumed"]),
            ("metrics files with a torn last line", counts["torn"]),
            ("runs brought to their end", counts["runs"]),
            ("of them killed between their end and that of the process", counts["ended"]),
            ("runs lost", counts["lost"]),
            ("runs whose metrics or weights differ", counts["different"]),
        ],
    )
    return 1 if counts["lost"] or counts["different"] else 0


def reference(directory, number):
    run = directory / f"uncut-{number}"
    began = time.monotonic()
    code = finish(start(run, a_request(directory, run, number)))
    assert code == 0, code
    return result(run), time.monotonic() - began


def a_request(directory, run, number):
    keys = {"steps": STEPS, "checkpoint_every": EVERY, "evaluate_every": 5 * EVERY}
    return request(directory, run, VARIANTS[number], **keys)


def live_and_die(directory, number, wanted, most_kills, chance, counts):
    (metrics, weights), seconds = wanted
    run = directory / f"killed-{counts['runs']}"
    while True:
        has_begun = bool(RunDirectory(run).steps())
        child = start(run, a_request(directory, run, number))
        counts["resumed"] += has_begun
        if counts["kills"] < most_kills:
            wait = wait_for_write if chance.random() < 0.5 else wait_a_while
            wait(child, run, seconds, chance)
            os.kill(child, signal.SIGSTOP)
            inside = being_written(run) is not None
            os.kill(child, signal.SIGKILL)
        code = finish(child)
        if code == -signal.SIGKILL:
            counts["kills"] += 1
            counts["inside"] += inside
            counts["before"] += not RunDirectory(run).steps()
            counts["torn"] += torn(run)
        else:
            break
    counts["runs"] += 1
    if code == BadInputError.exit_code and has_ended(run):
        # It was killed after its last line, and has nothing left to be done.
        counts["ended"] += 1
        code = 0
    if code != 0:
        counts["lost"] += 1
        error = (directory / "error").read_text()
        print(f"run {run.name} can't be resumed: exit code {code}, {error}", file=sys.stderr)
    elif result(run) != (metrics, weights):
        counts["different"] += 1
        print(f"run {run.name} differs from the one never killed", file=sys.stderr)
    shutil.rmtree(run)


def wait_a_while(child, run, seconds, chance):
    time.sleep(chance.random() * seconds)


def being_written(run):
    """The checkpoint that is being written, or None."""
    try:
        return next(run.glob("checkpoints/.step-*.part"), None)
    except FileNotFoundError:  # A run that ends before its first step goes while we look.
        return None


def wait_for_write(child, run, seconds, chance):
    """Wait for the next checkpoint to be begun, and then up to a few milliseconds."""
    skip, until = chance.randrange(3), time.monotonic() + seconds
    seen = None
    while skip >= 0 and time.monotonic() < until:
        found = being_written(run)
        if found is not None and found != seen:
            seen, skip = found, skip - 1
        time.sleep(0.0002)
    time.sleep(chance.random() * 0.004)


def has_ended(run):
    last = (run / "metrics.jsonl").read_bytes().splitlines()[-1]
    return json.loads(last)["kind"] == "end"


def torn(run):
    try:
        content = (run / "metrics.jsonl").read_bytes()
    except FileNotFoundError:
        return False
    return bool(content) and not content.endswith(b"\n")


if __name__ == "__main__":
    sys.exit(main())
