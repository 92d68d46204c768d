"""One writer a run: a lock that dies with its process."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from types import TracebackType

from minitx.errors import BadInputError, RunLockedError

# Windows locks the first byte, which nobody else can read then.
_PID_STARTS = 1 if sys.platform == "win32" else 0


class RunLock:
    """Hold a run directory for writing, as a context manager.

    The operating system releases the lock when the process ends, however it ends, so a lock left
    by a killed run is never in the way. The file holds the owner's process id, to name it.

    Args:
        path: the lock file; created if missing, never removed (removing it would let two
            processes lock two files of one name).

    Raises:
        RunLockedError: on entry, when another process holds it.
        BadInputError: on entry, when the file can't be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._handle: int | None = None

    def __enter__(self) -> RunLock:
        try:
            handle = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise BadInputError(
                f"{self._path.parent} can't be written ({error.strerror})",
                "Choose a directory you may write to",
            ) from None
        os.lseek(handle, _PID_STARTS, os.SEEK_SET)
        owner = os.read(handle, 32).decode("ascii", "replace").strip()
        if not _try_lock(handle, owner):
            os.close(handle)
            named = f"process {owner}" if owner.isdigit() else "another process"
            raise RunLockedError(
                f"run {self._path.parent} is being trained by {named}",
                "Wait until it ends, or stop it with Ctrl-C there",
            )
        self._handle = handle
        # A full disk must not keep anyone from resuming: the pid is only a courtesy.
        with contextlib.suppress(OSError):
            os.ftruncate(handle, 0)
            os.lseek(handle, _PID_STARTS, os.SEEK_SET)
            os.write(handle, f"{os.getpid()}\n".encode())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._handle is not None:
            with contextlib.suppress(OSError):
                os.ftruncate(self._handle, 0)
            os.close(self._handle)
            self._handle = None


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
