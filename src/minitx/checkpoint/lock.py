"""One writer a run: a lock that dies with its process."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from minitx.errors import RunLockedError
from minitx.files import open_plain_file, os_errors_as_bad_input

# Windows locks the first byte, which nobody else can read then.
_PID_STARTS = 1 if sys.platform == "win32" else 0


@contextlib.contextmanager
def run_lock(path: Path) -> Iterator[None]:
    """Hold a run directory for writing, by a lock file that is made if missing.

    The operating system releases the lock when the process ends, however it ends, so a lock left
    by a killed run is never in the way. The file holds the owner's process id, to name it. It is
    never removed: that would let two processes lock two files of one name.

    Raises:
        RunLockedError: another process holds it.
        BadInputError: the file can't be written.
    """
    fix = "Choose a directory you may write to"
    with os_errors_as_bad_input(f"{path.parent} can't be written", fix):
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        os.lseek(handle, _PID_STARTS, os.SEEK_SET)  # A pipe has no places.
    try:
        owner = os.read(handle, 32).decode("ascii", "replace").strip()
        if not _try_lock(handle, owner):
            named = f"process {owner}" if owner.isdigit() else "another process"
            raise RunLockedError(
                f"run {path.parent} is being trained by {named}",
                "Wait until it ends, or stop it with Ctrl-C there",
            )
        # A full disk must not keep anyone from resuming: the pid is only a courtesy.
        with contextlib.suppress(OSError):
            os.ftruncate(handle, 0)
            os.lseek(handle, _PID_STARTS, os.SEEK_SET)
            os.write(handle, f"{os.getpid()}\n".encode())
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                os.ftruncate(handle, 0)
    finally:
        os.close(handle)


def is_held(path: Path) -> bool:
    """Whether another process holds the lock; nobody who wants it meanwhile is refused."""
    with contextlib.suppress(OSError, ValueError), open_plain_file(path) as file:
        owner = file.read(32)[_PID_STARTS:].decode("ascii", "replace").strip()
        # Tried only if its process is there, since to try is to hold it for a moment.
        return owner.isdigit() and _is_running(int(owner)) and not _try_lock(file.fileno(), owner)
    return False


def _try_lock(handle: int, owner: str) -> bool:
    # Imported where it is needed: commands that only read a run start sooner without.
    from filelock import lock_descriptor

    try:
        return lock_descriptor(handle, blocking=False)
    except OSError:
        # A file system without locks: the process id alone tells, if it is of this machine.
        return not (owner.isdigit() and _is_running(int(owner)))


def _is_running(process: int) -> bool:
    if process in (0, os.getpid()) or sys.platform == "win32":
        return False
    try:
        os.kill(process, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return True
