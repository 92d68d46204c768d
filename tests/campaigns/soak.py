"""Train for hours, killed now and then: memory and file handles must stay flat.

    python tests/campaigns/soak.py --seconds 7200 --seed 1

Counted are the seconds in which the training process was there and not stopped (SIGSTOP).
Memory is sampled from the second minute of each session on; it may vary, but not rise.
"""

import argparse
import os
import random
import signal
import sys
import time
from pathlib import Path

from victims import VARIANTS, RunDirectory, finish, request, scratch, start, table

PAUSE = 1.0
WARM_UP = 60.0
MOST_GROWTH = 8.0
"""MB that the memory of a session may rise from its first to its last quarter after warming up."""


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=7200.0)
    parser.add_argument("--session", type=float, default=400.0, help="longest before a kill")
    parser.add_argument("--warm-up", type=float, default=WARM_UP)
    parser.add_argument("--until", type=float, default=float("inf"), help="end by this time")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    sessions, total = [], 0.0
    with scratch() as directory:
        run = directory / "run"
        keys = {"steps": 10**8, "checkpoint_every": 100, "evaluate_every": 100, "log_every": 50}
        first = request(directory, run, VARIANTS[options.seed % len(VARIANTS)], **keys)
        while total < options.seconds and time.time() < options.until:
            child = start(run, first)
            limit = min(options.session * chance.uniform(0.3, 1.0), options.seconds - total)
            sessions.append(watch(child, limit, options.until))
            total += sessions[-1]["seconds"]
            os.kill(child, signal.SIGKILL)
            code = finish(child)
            if code != -signal.SIGKILL:
                print(f"session ended by itself with exit code {code}", file=sys.stderr)
                return 1
            (directory / "told").write_text(f"{total:.0f}\n")
        steps = RunDirectory(run).steps()[-1]
    return report(options, sessions, steps)


def watch(child, limit, until):
    seconds, samples, began = 0.0, [], time.monotonic()
    before = began
    while seconds < limit and time.time() < until:
        time.sleep(PAUSE)
        now, state = time.monotonic(), state_of(child)
        if state == "Z":
            break
        # A pause of this process itself shows as a long one.
        if state not in "Tt" and now - before < 5 * PAUSE:
            seconds += now - before
            handles = len(os.listdir(f"/proc/{child}/fd"))
            samples.append((seconds, memory_of(child), handles))
        before = now
    return {"seconds": seconds, "samples": samples, "cpu": cpu_of(child)}


def report(options, sessions, steps):
    growths, handles, peaks = [], set(), []
    for session in sessions:
        settled = [sample for sample in session["samples"] if sample[0] > options.warm_up]
        handles |= {sample[2] for sample in settled}
        quarter = len(settled) // 4
        if quarter:
            first = sum(s[1] for s in settled[:quarter]) / quarter
            last = sum(s[1] for s in settled[-quarter:]) / quarter
            growths.append(last - first)
            peaks.append(max(s[1] for s in settled))
    table(
        f"soak campaign, seed {options.seed}",
        [
            ("seconds of training", f"{sum(s['seconds'] for s in sessions):,.0f}"),
            ("of them on a processor", f"{sum(s['cpu'] for s in sessions):,.0f}"),
            ("SIGKILLs, each resumed", len(sessions)),
            ("steps saved", f"{steps:,}"),
            ("sessions long enough to judge memory", len(growths)),
            ("most memory, MB", f"{max(peaks, default=0):,.1f}"),
            ("largest rise of memory in a session, MB", f"{max(growths, default=0):+.2f}"),
            ("sum of the rises over all sessions, MB", f"{sum(growths):+.2f}"),
            ("file handles, fewest", min(handles, default=0)),
            ("file handles, most", max(handles, default=0)),
        ],
    )
    # A checkpoint under way has a file or two open.
    flat = max(growths, default=0) <= MOST_GROWTH and max(handles) - min(handles) <= 6
    return 0 if flat and growths else 1


def state_of(process):
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]


def cpu_of(process):
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_of(process):
    """Resident memory in MB."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


if __name__ == "__main__":
    sys.exit(main())
