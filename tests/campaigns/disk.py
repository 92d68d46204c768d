"""Take away the disk, the permission or the clock in the middle of a run; then give it back.

    python tests/campaigns/disk.py --cases 200 --seed 1

After each fault the last good checkpoint must be whole and the error one clear line; and the run,
resumed when all is well again, must end with the numbers of one that met no fault, to the bit.

A full disk is a small tmpfs where one may be mounted (as root), and a limit on the size of files
besides. Permissions don't bind root, so as root these runs belong to the user 65534. What can't be
tried on a machine is named, and counted as skipped.
"""

import argparse
import contextlib
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time

from victims import VARIANTS, RunDirectory, finish, forked, request, result, scratch, table, train

from minitx.errors import BadInputError, DamagedFileError
from minitx.workflows.resume import RESUME_FILES, ResumeRequest, resume

STEPS, EVERY = 30, 2
NOBODY = 65534
DAYS = 86_400.0
KINDS = ("disk full", "file size limited", "read-only from the start", "permission lost",
         "clock set back")  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    counts = dict.fromkeys((*KINDS, "skipped", "met", "unclear", "lost", "different"), 0)
    with scratch() as directory, small_disk(directory) as disk:
        directory.chmod(0o777)
        # What is imported late, another user might not be able to read.
        train(a_request(directory, directory / "first", 1), [])
        wanted = [reference(directory, number) for number in range(len(VARIANTS))]
        for case in range(options.cases):
            kind = KINDS[case % len(KINDS)]
            if kind == "disk full" and disk is None:
                counts["skipped"] += 1
                continue
            counts[kind] += 1
            number = chance.randrange(len(VARIANTS))
            run = (disk if kind == "disk full" else directory) / f"run-{case}"
            live(Case(kind, directory, run, number, chance), wanted[number], counts)
            subprocess.run(["chmod", "-R", "u+rwX", run], check=True)
            shutil.rmtree(run)
    table(
        f"disk campaign, seed {options.seed}",
        [
            *[(kind, counts[kind]) for kind in KINDS],
            ("skipped: no tmpfs may be mounted here", counts["skipped"]),
            ("runs that met the fault before their end", counts["met"]),
            ("errors that are not one clear line", counts["unclear"]),
            ("last good checkpoints that were lost", counts["lost"]),
            ("resumed runs whose metrics or weights differ", counts["different"]),
        ],
    )
    return 1 if counts["unclear"] or counts["lost"] or counts["different"] else 0


class Case:
    """One run, and what happens to it."""

    def __init__(self, kind, directory, run, number, chance):
        self.kind, self.directory, self.run = kind, directory, run
        self.number, self.chance = number, chance
        self.request = a_request(directory, run, number)
        # A pipe, since the fault may be that no file can be written.
        self.told = os.pipe()

    def start(self, disturb=lambda: None):
        """Begin or go on in a process of its own that can be refused."""

        def work():
            if os.geteuid() == 0 and self.kind in KINDS[2:4]:
                os.setgid(NOBODY)
                os.setuid(NOBODY)
            disturb()
            try:
                if RunDirectory(self.run).steps():
                    resume(ResumeRequest(self.run), [])
                else:
                    train(self.request, [])
            except BaseException as error:
                os.write(self.told[1], f"{error}\n".encode())
                raise

        return forked(work)

    def errors(self):
        """What sessions ended with since the last call."""
        os.write(self.told[1], b".")
        return os.read(self.told[0], 100_000)[:-1].decode()


def live(case, wanted, counts):
    code, before = FAULTS[case.kind](case)
    run, error = RunDirectory(case.run), case.errors()
    if code != 0:
        counts["met"] += 1
        if code != BadInputError.exit_code or error.count("\n") != 1 or "can't be" not in error:
            counts["unclear"] += 1
            print(f"{case.kind}: exit code {code}, {error}", file=sys.stderr)
    try:
        if before:
            kept = run.usable_checkpoint("last", required=RESUME_FILES)
            if int(kept.name.removeprefix("step-")) < before[-1]:
                raise DamagedFileError(f"{kept.name} is older than {before[-1]}", "")
        if code != 0 and (code := finish(case.start())) != 0:
            raise DamagedFileError(f"exit code {code}, {case.errors()}", "")
    except DamagedFileError as error:
        counts["lost"] += 1
        print(f"{case.kind}: {error}", file=sys.stderr)
        return
    if result(case.run) != wanted:
        counts["different"] += 1
        print(f"{case.kind}: {case.run.name} differs from the one without a fault", file=sys.stderr)


def disk_full(case):
    child = case.start()
    before = wait_for_checkpoints(case, child)
    filler = case.run.parent / "filler"
    left = case.chance.choice((0, 0, case.chance.randrange(120_000)))
    with filler.open("wb") as file, contextlib.suppress(OSError):
        free = shutil.disk_usage(case.run.parent).free
        os.posix_fallocate(file.fileno(), 0, max(1, free - left))
    code = finish(child)
    filler.unlink()
    return code, before


def file_size_limited(case):
    """The largest file has about 60 KB; the first session may write less than that."""
    child = case.start()
    before = wait_for_checkpoints(case, child)
    limit = case.chance.choice((0, 100, case.chance.randrange(70_000)))
    resource.prlimit(child, resource.RLIMIT_FSIZE, (limit, limit))
    return finish(child), before


def read_only_from_the_start(case):
    case.run.mkdir()
    own(case.run)
    child = case.start()
    wait_for_checkpoints(case, child)
    os.kill(child, signal.SIGTERM)
    code, error = finish(child), case.errors()
    # Cut, unless it was quicker.
    assert code in (0, 128 + signal.SIGTERM), error
    before = RunDirectory(case.run).steps()
    assert before, error
    close(case, case.chance.choice((case.run, case.run / "checkpoints")))
    code = finish(case.start())
    reopen(case)
    return code, before


def permission_lost(case):
    case.run.mkdir()
    own(case.run)
    child = case.start()
    before = wait_for_checkpoints(case, child)
    close(case, case.run / case.chance.choice((".", "checkpoints")))
    code = finish(child)
    reopen(case)
    return code, before


def clock_set_back(case):
    """It jumps by days, back and forth, at each look; and what was written is of the future."""
    days = [case.chance.uniform(-400, 5) for _ in range(50)]

    def disturb():
        real, calls = time.time, [0]

        def jumping():
            calls[0] += 1
            return real() + DAYS * days[calls[0] % len(days)]

        time.time = jumping

    child = case.start(disturb)
    before = wait_for_checkpoints(case, child)
    os.kill(child, signal.SIGTERM)
    finish(child)
    case.errors()
    for path in case.run.rglob("*"):
        ahead = time.time() + DAYS * case.chance.uniform(-400, 400)
        os.utime(path, (ahead, ahead))
    code = finish(case.start(disturb))
    return code, before


FAULTS = dict(zip(KINDS, (disk_full, file_size_limited, read_only_from_the_start, permission_lost,
                          clock_set_back), strict=True))  # fmt: skip


def wait_for_checkpoints(case, child):
    """Wait for some, and a moment more; the steps that were whole then."""
    wanted = case.chance.randrange(1, STEPS - 4)
    run, until = RunDirectory(case.run), time.monotonic() + 20
    while time.monotonic() < until and os.waitid(os.P_PID, child, WAIT) is None:
        with contextlib.suppress(OSError, BadInputError):
            if run.steps() and run.steps()[-1] >= wanted:
                break
        time.sleep(0.0005)
    time.sleep(case.chance.random() * 0.01)
    return run.steps()


WAIT = os.WEXITED | os.WNOHANG | os.WNOWAIT


def own(run):
    if os.geteuid() == 0:
        os.chown(run, NOBODY, NOBODY)


def close(case, path):
    path.chmod(0o555)


def reopen(case):
    for path in (case.run, case.run / "checkpoints"):
        path.chmod(0o755)


def reference(directory, number):
    run = directory / f"uncut-{number}"
    assert finish(forked(lambda: train(a_request(directory, run, number), []))) == 0
    return result(run)


def a_request(directory, run, number):
    keys = {"steps": STEPS, "checkpoint_every": EVERY, "evaluate_every": 5 * EVERY}
    return request(directory, run, VARIANTS[number], **keys)


@contextlib.contextmanager
def small_disk(directory):
    """A file system of 3 MB; None where it may not be mounted."""
    place = directory / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(place)]
    try:
        mounted = subprocess.run(command, capture_output=True).returncode == 0
    except FileNotFoundError:
        mounted = False
    try:
        yield place if mounted else None
    finally:
        if mounted:
            subprocess.run(["umount", str(place)], check=True)


if __name__ == "__main__":
    sys.exit(main())
