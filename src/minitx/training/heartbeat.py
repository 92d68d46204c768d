"""Whether all processes that train together are alive.

Each counts up a number in the store that they share, once a second, from a thread of its own, which
goes on while the others wait in a collective call. A number that stands still is a process that was
killed, or hangs, or whose machine is gone.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from typing import Any

from minitx.errors import LostProcessError

PERIOD = 1.0
"""Seconds from one beat to the next."""

HANGS_AFTER = 20.0
"""Seconds without one after which a process counts as lost."""

GONE_AFTER = 4.0
"""The same after a collective call failed, which says already that somebody is gone."""


class Heartbeat:
    """Beats while it is a context, and ends this process when another one is lost.

    Attributes:
        go_on: the command that continues the run; empty if there is nothing to continue.
        is_quiet: whether a launcher tells who was killed.
    """

    def __init__(self, store: Any, rank: int, size: int, is_quiet: bool) -> None:
        self.go_on, self.is_quiet = "", is_quiet
        self._store, self._rank, self._size = store, rank, size
        self._done = threading.Event()
        self._seen = dict.fromkeys(range(size), (b"", time.monotonic()))

    def __enter__(self) -> Heartbeat:
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.end(0)

    def end(self, code: int) -> None:
        """Tell the others that this process ends as it should, with this exit code."""
        if not self._done.is_set():
            self._done.set()
            self._thread.join()
            with contextlib.suppress(Exception):
                self._store.set(f"beat/{self._rank}", f"ended {code}")

    def tell_loss(self) -> None:
        """Find out who is gone, after a collective call failed.

        Raises:
            LostProcessError: in the first process that is left.
            SystemExit: in the others, and where the one that is gone has said why.
        """
        self._done.set()
        self._thread.join()
        began = time.monotonic()
        lost: int | None = None
        while lost is None and time.monotonic() - began < HANGS_AFTER:
            with contextlib.suppress(Exception):
                self._store.set(f"beat/{self._rank}", f"waits {time.monotonic()}")
            codes = self._look()
            if codes:
                raise SystemExit(min(codes))
            lost = self._lost(GONE_AFTER)
            time.sleep(PERIOD / 4)
        if self._speaks(lost) and not self.is_quiet:
            raise self._error(lost)
        raise SystemExit(LostProcessError.exit_code)

    def _beat(self) -> None:
        number, silent_since, last = 0, time.monotonic(), time.monotonic()
        while not self._done.wait(PERIOD):
            number += 1
            if time.monotonic() - last > 3 * PERIOD:
                # This process was stopped, and perhaps all were: they get time to beat again.
                self._seen = {r: (beat, time.monotonic()) for r, (beat, _) in self._seen.items()}
            last = time.monotonic()
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

    def _look(self) -> list[int]:
        """Read what the others last wrote; gives the exit codes of those that ended with one."""
        codes = []
        for rank in range(self._size):
            key = f"beat/{rank}"
            beat = self._store.get(key) if self._store.check([key]) else b""
            if beat.startswith(b"ended"):
                codes += [code for code in [int(beat.split()[1])] if code]
                self._seen[rank] = (beat, float("inf"))
            elif beat != self._seen[rank][0]:
                self._seen[rank] = (beat, time.monotonic())
        return codes

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
        if self._speaks(lost) and not self.is_quiet:
            with contextlib.suppress(OSError, ValueError):
                sys.stderr.write(f"error: {self._error(lost)}\n")
                sys.stderr.flush()
        os._exit(LostProcessError.exit_code)
