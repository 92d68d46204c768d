"""Give minitx inputs that no one would write, and see that each ends in an answer or one line.

    python tests/campaigns/fuzz.py --inputs 10000 --seed 1

Each input is a corpus, a TOML file, a tokenizer, a config, a file of a run, a header of tensors or
a list of flags, changed at random (its bytes, or its values) and given to a command that reads it,
in a process of its own. Counted as a failure: a traceback, an exit code that is not documented,
more than one error line, a control character on the terminal, more than 5 seconds of a processor
(15 by the clock), and more than 1 GB of memory.

Commands run as they are, but for training, which is not begun: its plan and set-up are what reads.
"""

import argparse
import contextlib
import io
import os
import random
import resource
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path

from fuzz_inputs import KINDS, Base
from victims import finish, forked, request, scratch, table, train

from minitx.cli import app
from minitx.errors import MinitxError
from minitx.workflows import train as training

CPU_SECONDS, SECONDS = 5, 15
MOST_MEMORY = 10**9
CODES = {0, 2, 3, 4, 5}


class NotBegunError(MinitxError):
    """What was read is good enough to train with."""

    exit_code = 0


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", help="one kind of input")
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    options = parser.parse_args()
    counts = dict.fromkeys(KINDS, 0)
    seen = {"answered": 0, "refused": 0, "traceback": 0, "code": 0, "lines": 0, "control": 0}
    seen |= {"hung": 0, "large": 0}
    peak, longest = 0, 0.0
    with scratch() as directory:
        base = Base(prepared(directory))
        for number in range(options.first, options.first + options.inputs):
            chance = random.Random(f"{options.seed}/{number}")
            kind = options.only or list(KINDS)[number % len(KINDS)]
            counts[kind] += 1
            place = directory / "case"
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir()
            arguments = KINDS[kind](base, place, chance)
            status, used, seconds = run(place, arguments)
            if os.waitstatus_to_exitcode(status) == -signal.SIGALRM:
                # The clock may have gone on while the machine did not.
                status, used, seconds = run(place, arguments)
            peak, longest = max(peak, used), max(longest, seconds)
            wrong = judge(place, status, used)
            seen["answered" if status == 0 else "refused"] += 1
            for one in wrong:
                seen[one] += 1
            if wrong:
                tell(options.seed, number, kind, arguments, status, wrong, place)
    rows = [(f"inputs: {kind}", count) for kind, count in counts.items()]
    table(
        f"fuzz campaign, seed {options.seed}",
        [
            ("inputs", options.inputs),
            *rows,
            ("answered", seen["answered"]),
            ("refused in one line", seen["refused"]),
            ("tracebacks", seen["traceback"]),
            ("exit codes that are not documented", seen["code"]),
            ("told in no line, or in several", seen["lines"]),
            ("control characters on the terminal", seen["control"]),
            (f"more than {CPU_SECONDS} seconds", seen["hung"]),
            ("more than 1 GB", seen["large"]),
            ("longest, seconds", f"{longest:.1f}"),
            ("most memory of a process, MB", peak // 10**6),
        ],
    )
    failures = ("traceback", "code", "lines", "control", "hung", "large")
    return 1 if any(seen[name] for name in failures) else 0


def prepared(directory):
    """A small run whose files are changed."""
    keys = {"steps": 4, "checkpoint_every": 2, "evaluate_every": 2}
    first = request(directory, directory / "whole", **keys)
    assert finish(forked(lambda: train(first, []))) == 0
    # What a command imports only when it runs, it would import in each process again.
    os.chdir(directory)
    null = io.StringIO()
    for command in (
        ["generate", "whole", "--prompt", "a", "--max-new-tokens", "1"],
        ["eval", "whole", "--quick", "--no-baselines"],
        ["attn", "whole"],
        ["attn", "whole", "--json"],
        ["attn", "whole", "--html", "a.html"],
        ["diagnose", "whole"],
        ["tokenize", "corpus.txt"],
        ["train", "nothing.txt"],
    ):
        with contextlib.redirect_stdout(null), contextlib.redirect_stderr(null):
            assert called(command) == (2 if command[0] == "train" else 0), command
    return directory


def called(arguments):
    """Run the command line here; its exit code."""
    sys.argv = ["minitx", *arguments]
    try:
        app.main()
    except SystemExit as end:
        return end.code or 0
    return 0


def run(place, arguments):
    """In a process of its own: the wait status, the largest memory in bytes, and the seconds."""
    began = time.monotonic()
    child = os.fork()
    if not child:
        code = 1
        try:
            confine(place)
            code = called(arguments)
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code if isinstance(code, int) else 1)
    _, status, usage = os.wait4(child, 0)
    return status, usage.ru_maxrss * 1024, time.monotonic() - began


def confine(place):
    training._new_session = not_begun
    os.chdir(place)
    for handle, name in ((0, os.devnull), (1, "stdout"), (2, "stderr")):
        flags = os.O_RDONLY if handle == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        os.dup2(os.open(name, flags), handle)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Well above what is judged, so that the machine survives what is found.
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * os.sysconf("SC_PAGE_SIZE") + 6 * MOST_MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def not_begun(*_):
    raise NotBegunError("this can be trained with", "Begin")


def judge(place, status, used):
    """What is wrong with the way in which a command ended."""
    wrong = []
    code = os.waitstatus_to_exitcode(status)
    out, err = ((place / name).read_bytes() for name in ("stdout", "stderr"))
    if -code in (signal.SIGXCPU, signal.SIGALRM, signal.SIGKILL):
        return ["hung"]
    if b"Traceback" in err or b"Traceback" in out:
        wrong.append("traceback")
    elif code not in CODES:
        wrong.append("code")
    elif code and (err.count(b"error: ") != 1 or b"error: " not in err.splitlines()[-1]):
        wrong.append("lines")
    shown = (out + err).decode("utf-8", "replace")
    if any((ord(c) < 32 and c not in "\n") or 0x7F <= ord(c) < 0xA0 for c in shown):
        wrong.append("control")
    if used > MOST_MEMORY:
        wrong.append("large")
    return wrong


def tell(seed, number, kind, arguments, status, wrong, place):
    code = os.waitstatus_to_exitcode(status)
    shown = [argument if len(argument) < 60 else argument[:60] + "…" for argument in arguments]
    print(f"{', '.join(wrong)}: {kind} {number} of seed {seed}: {shown}, exit code {code}")
    lines = (place / "stderr").read_text(errors="replace").splitlines()
    for line in lines[-4:]:
        print(f"    {line[:200]!r}")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
