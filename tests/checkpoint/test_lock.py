import errno
import os
import signal
import subprocess
import sys
import time

import pytest

from minitx.checkpoint.lock import run_lock
from minitx.errors import BadInputError, RunLockedError

HOLD = """
import sys, time
from pathlib import Path
from minitx.checkpoint.lock import run_lock
with run_lock(Path(sys.argv[1])):
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
    with pytest.raises(RunLockedError, match=f"process {process.pid}") as caught, run_lock(path):
        pass
    assert time.monotonic() - began < 1
    assert caught.value.exit_code == 5


def test_lock_of_a_killed_process_is_free(holder):
    path, process = holder
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert path.read_text() == f"{process.pid}\n"  # stale, and still not in the way
    with run_lock(path):
        assert path.read_text() == f"{os.getpid()}\n"


def test_lock_is_free_after_use(tmp_path):
    for _ in range(2):
        with run_lock(tmp_path / "lock"):
            pass
    assert (tmp_path / "lock").read_text() == ""


def test_owner_that_left_no_pid_is_still_told(holder):
    path, _ = holder
    path.write_text("")
    with pytest.raises(RunLockedError, match="another process"), run_lock(path):
        pass


def test_missing_directory_is_bad_input(tmp_path):
    with pytest.raises(BadInputError, match="can't be written"), run_lock(tmp_path / "no" / "lock"):
        pass


def test_pid_of_another_process_in_a_free_lock_is_not_believed(tmp_path, holder):
    """The pid of a killed owner was given to another process since: the lock is free."""
    _, process = holder
    path = tmp_path / "other"
    path.write_text(f"{process.pid}\n")
    with run_lock(path):
        assert path.read_text() == f"{os.getpid()}\n"


@pytest.fixture
def without_locks(monkeypatch):
    """A file system that has no locks, as some network file systems."""
    import fcntl

    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)


@pytest.mark.usefixtures("without_locks")
def test_without_locks_a_live_owner_is_respected(holder):
    path, process = holder
    with pytest.raises(RunLockedError, match=f"process {process.pid}"), run_lock(path):
        pass
    assert path.read_text() == f"{process.pid}\n"
    process.kill()
    process.wait()
    with run_lock(path):
        assert path.read_text() == f"{os.getpid()}\n"


@pytest.mark.usefixtures("without_locks")
@pytest.mark.parametrize("left", ["", "0", "-1", "ten", "9" * 30, "\xff", "our own"])
def test_without_locks_what_names_no_other_process_is_free(tmp_path, left):
    path = tmp_path / "lock"
    content = str(os.getpid()) if left == "our own" else left
    path.write_bytes(content.encode("latin-1"))
    with run_lock(path):
        assert path.read_text() == f"{os.getpid()}\n"


@pytest.mark.usefixtures("without_locks")
def test_without_locks_an_owner_of_another_user_is_respected(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "kill", refuse)
    path = tmp_path / "lock"
    path.write_text("4321\n")
    with pytest.raises(RunLockedError, match="process 4321"), run_lock(path):
        pass


def test_full_disk_keeps_nobody_from_the_lock(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", refuse)
    with (
        run_lock(tmp_path / "lock"),
        pytest.raises(RunLockedError, match="another process"),
        run_lock(tmp_path / "lock"),
    ):
        pass


def test_lock_is_left_when_the_work_fails(tmp_path):
    with pytest.raises(ZeroDivisionError), run_lock(tmp_path / "lock"):
        raise ZeroDivisionError
    with run_lock(tmp_path / "lock"):
        pass
