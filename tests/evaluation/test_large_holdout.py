"""A holdout of a gigabyte is scored in bounded memory. Takes minutes, and 4 GB of disk:

OMP_NUM_THREADS=1 python -m pytest -m campaign -s tests/evaluation/test_large_holdout.py
"""

import json
import os
import subprocess
import sys

import pytest
from small_runs import VERSES

MEGABYTES = int(os.environ.get("MINITX_LARGE_HOLDOUT_MB", "1000"))

# The memory of a child is that of the largest one so far, so each is measured by its own parent.
PARENT = """
import json, resource, subprocess, sys, time
began = time.monotonic()
done = subprocess.run(sys.argv[1:], capture_output=True, text=True)
sys.stderr.write(done.stderr)
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
print(json.dumps({"code": done.returncode, "seconds": time.monotonic() - began, "peak": peak,
                  "report": json.loads(done.stdout) if done.returncode == 0 else None}))
"""


def measured(*arguments):
    command = [sys.executable, "-c", PARENT, sys.executable, "-m", "minitx", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["code"] == 0, done.stderr
    print(f"{arguments[-1]}: {found['seconds']:.0f} s, peak {found['peak'] / 1e6:.0f} MB")
    return found


@pytest.mark.campaign
@pytest.mark.parametrize("flags", [[], ["--no-baselines"]], ids=["baselines", "no-baselines"])
def test_a_large_text_takes_no_more_memory_than_a_small_one(tiny_run, tmp_path, flags):
    peaks = {}
    for name, megabytes in (("small", 10), ("large", MEGABYTES)):
        path = tmp_path / f"{name}.txt"
        with path.open("w") as file:
            for _ in range(megabytes * 1_000_000 // len(VERSES)):
                file.write(VERSES)
        how = ["--json", "--max-tokens", 200_000, *flags]
        found = measured("eval", tiny_run, path, *how)
        (report,) = found["report"]["reports"]
        assert report["text"]["bytes"] == path.stat().st_size
        peaks[name] = found["peak"]
    assert peaks["large"] < peaks["small"] + 100e6
