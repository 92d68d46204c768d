import os
import signal
import subprocess
import sys
import time

import pytest

from minitx.checkpoint.lock import RunLock
from minitx.errors import BadInputError, RunLockedError

HOLD = """
import sys, time
from pathlib import Path
from minitx.checkpoint.lock import RunLock
with RunLock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    path = tmp_path / "lock"
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"held\n"
    yield path, process
    process.kill()
    process.wait()


def test_second_writer_is_refused_with_the_owners_pid(holder):
    path, process = holder
    began = time.monotonic()
    with pytest.raises(RunLockedError, match=f"process {process.pid}") as caught, RunLock(path):
        pass
    assert time.monotonic() - began < 1
    assert caught.value.exit_code == 5


def test_lock_of_a_killed_process_is_free(holder):
    path, process = holder
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert path.read_text() == f"{process.pid}\n"  # stale, and still not in the way
    with RunLock(path):
        assert path.read_text() == f"{os.getpid()}\n"


def test_lock_is_free_after_use(tmp_path):
    for _ in range(2):
        with RunLock(tmp_path / "lock"):
            pass
    assert (tmp_path / "lock").read_text() == ""


def test_owner_that_left_no_pid_is_still_told(holder):
    path, _ = holder
    path.write_text("")
    with pytest.raises(RunLockedError, match="another process"), RunLock(path):
        pass


def test_missing_directory_is_bad_input(tmp_path):
    with pytest.raises(BadInputError, match="can't be written"), RunLock(tmp_path / "no" / "lock"):
        pass
