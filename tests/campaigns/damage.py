"""Damage one file of a run's newest checkpoint, and see that it is never used in silence.

    python tests/campaigns/damage.py --cases 1000 --seed 1

Each case cuts a file short, flips a bit, fills it with zeros, takes it away, or puts another
step's in its place (one file, or the whole directory). The next resume must either name the
damage and go back to the checkpoint before, or find nothing wrong in bytes that are as they were.
"""

import argparse
import logging
import random
import shutil
import sys

from victims import RunDirectory, finish, forked, request, scratch, table, train

from minitx.checkpoint.manifest import CARD
from minitx.errors import DamagedFileError
from minitx.workflows.resume import RESUME_FILES

KINDS = ("cut", "flipped", "zeroed", "missing", "swapped", "directory swapped")


class Said(logging.Handler):
    """Keeps the warnings."""

    def __init__(self):
        super().__init__()
        self.lines = []

    def emit(self, record):
        self.lines.append(record.getMessage())


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    chance, said = random.Random(options.seed), Said()
    logging.getLogger("minitx").addHandler(said)
    counts = dict.fromkeys((*KINDS, "named", "unclear", "silent", "not offered"), 0)
    with scratch() as directory:
        keys = {"steps": 20, "checkpoint_every": 10, "evaluate_every": 10}
        first = request(directory, directory / "whole", **keys)
        assert finish(forked(lambda: train(first, []))) == 0
        for _ in range(options.cases):
            shutil.rmtree(directory / "run", ignore_errors=True)
            shutil.copytree(directory / "whole" / "checkpoints", directory / "run" / "checkpoints")
            kind = chance.choice(KINDS)
            counts[kind] += 1
            run = RunDirectory(directory / "run")
            damaged = damage(run, kind, chance)
            judge(run, damaged, said, counts)
    rows = [(f"damaged: {kind}", counts[kind]) for kind in KINDS]
    table(
        f"damage campaign, seed {options.seed}",
        [
            ("damaged checkpoints", options.cases),
            *rows,
            ("named in one line, and the checkpoint before used", counts["named"]),
            ("told in more or fewer lines", counts["unclear"]),
            ("used in silence", counts["silent"]),
            ("the checkpoint before not offered", counts["not offered"]),
        ],
    )
    return 1 if counts["silent"] or counts["unclear"] or counts["not offered"] else 0


def damage(run, kind, chance):
    """Damage the newest checkpoint; return its name."""
    before, newest = (run.checkpoint(step) for step in run.steps()[-2:])
    if kind == "directory swapped":
        shutil.rmtree(newest)
        shutil.copytree(before, newest)
        return newest.name
    # A README is for people, who may change it.
    names = sorted({entry.name for entry in newest.iterdir()} - {CARD})
    if kind == "swapped":
        # Files that are the same at both steps are no damage.
        names = [n for n in names if (newest / n).read_bytes() != (before / n).read_bytes()]
    path = newest / chance.choice(names)
    content = bytearray(path.read_bytes())
    if kind == "missing":
        path.unlink()
    elif kind == "swapped":
        path.write_bytes((before / path.name).read_bytes())
    elif kind == "cut":
        path.write_bytes(content[: chance.randrange(len(content))])
    elif kind == "zeroed":
        start = chance.randrange(len(content))
        content[start:] = bytes(len(content) - start)
        path.write_bytes(content)
    else:
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        path.write_bytes(content)
    return newest.name


def judge(run, damaged, said, counts):
    said.lines.clear()
    try:
        used = run.usable_checkpoint("last", required=RESUME_FILES)
    except DamagedFileError:
        counts["not offered"] += 1
        return
    if used.name == damaged:
        counts["silent"] += 1
        print(f"{damaged} was used in silence", file=sys.stderr)
    elif len(said.lines) == 2 and damaged in said.lines[0] and used.name in said.lines[1]:
        counts["named"] += 1
    else:
        counts["unclear"] += 1
        print(said.lines, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
