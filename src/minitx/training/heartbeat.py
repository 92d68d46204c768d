"""Whether all processes that train together are alive.

Each counts up a number in the store that they share, once a second, from a thread of its own, which
goes on while the others wait in a collective call. A number that stands still is a process that was
killed, or hangs, or whose machine is gone.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import threading
import time
from typing import Any

from minitx.errors import LostProcessError, MinitxError
from minitx.training.launched import RUN_NOTE, told_beside

PERIOD = 1.0
"""Seconds from one beat to the next."""

HANGS_AFTER = 12.0
"""Seconds without one after which a process counts as lost."""

GONE_AFTER = 4.0
"""The same after a collective call failed, which says already that somebody is gone."""

_ENDED = "ended "


def _error_of_other(code: int, what: str, fix: str) -> MinitxError:
    error = MinitxError(what, fix)
    error.exit_code = code
    return error


class Heartbeat:
    """Beats while it is a context, and ends this process when another one is lost.

    Attributes:
        go_on: the command that continues the run; empty if there is nothing to continue.
        is_quiet: whether a launcher tells who was killed; not who hangs, which it can't know.
    """

    def __init__(self, store: Any, rank: int, size: int, is_quiet: bool) -> None:
        self.go_on, self.is_quiet = "", is_quiet
        self._store, self._rank, self._size = store, rank, size
        self._done = threading.Event()
        self._last_beat = time.monotonic()
        self._places: dict[int | None, str] = {}  # Host and process id.
        self._seen = dict.fromkeys(range(size), (b"", time.monotonic()))

    def __enter__(self) -> Heartbeat:
        self._store.set(f"place/{self._rank}", f"{socket.gethostname()} {os.getpid()}")
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._thread.start()
        threading.Thread(
            target=self._watch_store, name="heartbeat of the store", daemon=True
        ).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.end(0)

    def end(self, code: int, what: str = "", fix: str = "") -> None:
        """Tell the others that this process ends as it should, with which exit code, and why."""
        if not self._done.is_set():
            self._done.set()
            self._thread.join()
            with contextlib.suppress(Exception):
                self._store.set(f"beat/{self._rank}", _ENDED + json.dumps([code, what, fix]))

    def wait_for_first(self) -> None:
        """Return when the first process has ended, too, or beats no more."""
        with contextlib.suppress(Exception):
            while self._seen[0][1] < float("inf") and self._lost(HANGS_AFTER) != 0:
                self._look()
                time.sleep(PERIOD / 10)

    def tell_loss(self) -> None:
        """Find out who is gone, after a collective call failed.

        Raises:
            MinitxError: in the first process, with the reason of one that ended.
            LostProcessError: in the first of those that are left.
            SystemExit: in the others.
        """
        self._done.set()
        self._thread.join()
        began = time.monotonic()
        lost: int | None = None
        while lost is None and time.monotonic() - began < HANGS_AFTER:
            with contextlib.suppress(Exception):
                self._store.set(f"beat/{self._rank}", f"waits {time.monotonic()}")
            for code, what, fix in self._look():
                if self._rank or not what:
                    raise SystemExit(code)
                raise _error_of_other(code, what, fix)
            lost = self._lost(GONE_AFTER)
            time.sleep(PERIOD / 4)
        if self._speaks(lost) and not self.is_quiet:
            raise self._error(lost)
        raise SystemExit(LostProcessError.exit_code)

    def _beat(self) -> None:
        number, silent_since = 0, time.monotonic()
        while not self._done.wait(PERIOD):
            number += 1
            if time.monotonic() - self._last_beat > 3 * PERIOD:
                # This process was stopped, and perhaps all were: they get time to beat again.
                self._seen = {r: (beat, time.monotonic()) for r, (beat, _) in self._seen.items()}
            self._last_beat = time.monotonic()
            try:
                self._store.set(f"beat/{self._rank}", str(number))
                self._look()
                silent_since = time.monotonic()
            except Exception:
                # The store is gone: with the launcher, or the machine of the first process.
                if time.monotonic() - silent_since > GONE_AFTER:
                    self._leave(None)
            lost = self._lost(HANGS_AFTER)
            if lost is not None:
                self._leave(lost)

    def _watch_store(self) -> None:
        # A call to a store whose process hangs waits for minutes.
        last = time.monotonic()
        while not self._done.wait(PERIOD):
            if time.monotonic() - last > 3 * PERIOD:
                self._last_beat = time.monotonic()  # This process was stopped.
            last = time.monotonic()
            if time.monotonic() - self._last_beat > HANGS_AFTER:
                self._leave(None)

    def _look(self) -> list[tuple[int, str, str]]:
        """Read what the others last wrote; gives what `end` was told by those that failed."""
        failed: list[tuple[int, str, str]] = []
        for rank in range(self._size):
            key, place = f"beat/{rank}", f"place/{rank}"
            beat = self._store.get(key) if self._store.check([key]) else b""
            if rank not in self._places and self._store.check([place]):
                self._places[rank] = self._store.get(place).decode()
            if beat.startswith(_ENDED.encode()):
                code, what, fix = json.loads(beat[len(_ENDED) :])
                failed += [(code, what, fix)] if code else []
                self._seen[rank] = (beat, float("inf"))
            elif beat != self._seen[rank][0]:
                self._seen[rank] = (beat, time.monotonic())
        return failed

    def _lost(self, seconds: float) -> int | None:
        now = time.monotonic()
        return next((rank for rank, (_, since) in self._seen.items()
                     if rank != self._rank and now - since > seconds), None)  # fmt: skip

    def _speaks(self, lost: int | None) -> bool:
        # One of those that are left.
        return self._rank == min(rank for rank in range(self._size) if rank != lost)

    def _error(self, lost: int | None) -> LostProcessError:
        what = "the processes that train together lost each other"
        if lost is not None:
            what = f"process {lost} of {self._size} was lost: killed, hung, or cut off"
        fix = "Start the command again"
        if self.go_on:
            fix = f"The last checkpoint is whole; go on with: {self.go_on}"
        return LostProcessError(what, fix)

    def _leave(self, lost: int | None) -> None:
        # The main thread waits in a call that nothing can interrupt.
        if self._speaks(lost):
            with contextlib.suppress(OSError, ValueError):
                sys.stderr.write(f"error: {self._error(lost)}\n")
                sys.stderr.flush()
                if RUN_NOTE in os.environ:
                    told_beside(os.environ[RUN_NOTE]).touch()
        # One that hangs would keep its launcher waiting, and its part of the machine.
        host, _, pid = self._places.get(lost, "").partition(" ")
        if pid and host == socket.gethostname():
            with contextlib.suppress(OSError):
                os.kill(int(pid), signal.SIGKILL)
        os._exit(LostProcessError.exit_code)
