"""The campaigns in small, as they are run in full by hand (docs/reliability.md)."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("script", "arguments", "told"),
    [
        ("kill.py", ["--kills", "5", "--seed", "3"], "runs lost"),
        ("damage.py", ["--cases", "40", "--seed", "3"], "used in silence"),
        ("disk.py", ["--cases", "10", "--seed", "3"], "last good checkpoints that were lost"),
        ("fuzz.py", ["--inputs", "70", "--seed", "3"], "tracebacks"),
        pytest.param(
            *("deaths.py", ["--deaths", "4", "--seed", "3"], "runs lost"),
            marks=pytest.mark.campaign,
        ),
    ],
)
def test_campaign_in_small(script, arguments, told):
    path = Path(__file__).with_name(script)
    done = subprocess.run(
        [sys.executable, path, *arguments], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stdout + done.stderr
    counts = dict(line.strip().rsplit(maxsplit=1) for line in done.stdout.splitlines()[1:])
    assert counts[told] == "0"
