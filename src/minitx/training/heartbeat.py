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
        rank: of this process.
        is_quiet: whether a launcher tells who was killed; not who hangs, which it can't know.
        patience: seconds to wait for one that has not come yet, after the last that has.
        failure: exit code, reason and fix of another process that ended with an error.
        in_joint_pass: whether it waits for others, and would wait for such a one for ever.

    `about` is what the others are told of this process; `host` and `pid` are of it.
    """

    def __init__(
        self, store: Any, rank: int, size: int, is_quiet: bool, about: dict[str, Any]
    ) -> None:
        self.go_on, self.is_quiet, self.patience = "", is_quiet, HANGS_AFTER
        self.failure: tuple[int, str, str] | None = None
        self.in_joint_pass = False
        self.rank, self._store, self._size, self._about = rank, store, size, about
        self._done = threading.Event()
        self._last_beat = time.monotonic()
        self._abouts: dict[int, dict[str, Any]] = {}
        self._seen = dict.fromkeys(range(size), (b"", time.monotonic()))

    def __enter__(self) -> Heartbeat:
        self._store.set(f"about/{self.rank}", json.dumps(self._about))
        self._store.add("come", 1)
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._thread.start()
        threading.Thread(
            target=self._watch_store, name="heartbeat of the store", daemon=True
        ).start()
        return self

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if isinstance(error, MinitxError):
            self.end(error.exit_code, error.what, error.fix)
        elif isinstance(error, SystemExit):
            self.end(error.code if isinstance(error.code, int) else 1)
        else:
            self.end(0 if error is None else 1)

    def wait_for_all(self) -> list[dict[str, Any]]:
        """Return when all have come: what is told of each, by rank.

        Raises:
            MinitxError, SystemExit: as `require_no_failure`.
        """
        while self._store.add("come", 0) < self._size:
            self.require_no_failure()
            time.sleep(PERIOD / 20)
        self._look()
        return [self._abouts[rank] for rank in range(self._size)]

    def wait_at(self, name: str) -> None:
        """Return when the first process comes here, too; it goes on at once.

        Raises:
            MinitxError, SystemExit: as `require_no_failure`.
        """
        if self.rank == 0:
            self._store.set(name, "")
        while not self._store.check([name]):
            self.require_no_failure()
            time.sleep(PERIOD / 20)

    def is_first_to(self, what: str) -> bool:
        """Whether no other process has asked this before."""
        return bool(self._store.add(what, 1) == 1)

    def require_no_failure(self) -> None:
        """Go on if no other process has ended with an error.

        Raises:
            MinitxError: in the first process, with the reason of the one that has.
            SystemExit: in the others.
        """
        if self.failure is not None:
            code, what, fix = self.failure
            if self.rank or not what:
                raise SystemExit(code)
            raise _error_of_other(code, what, fix)

    def end(self, code: int, what: str = "", fix: str = "") -> None:
        """Tell the others that this process ends as it should, with which exit code, and why."""
        if not self._done.is_set():
            self._done.set()
            self._thread.join()
            with contextlib.suppress(Exception):
                self._store.set(f"beat/{self.rank}", _ENDED + json.dumps([code, what, fix]))

    def wait_for_first(self) -> None:
        """Return when the first process has ended, too, or beats no more."""
        with contextlib.suppress(Exception):
            while self._seen[0][1] < float("inf") and self._lost(HANGS_AFTER) != 0:
                self._look()
                time.sleep(PERIOD / 10)

    def wait_for_others(self) -> None:
        """Return when all others have ended, or after a few seconds."""
        until = time.monotonic() + GONE_AFTER
        with contextlib.suppress(Exception):
            while time.monotonic() < until and any(
                since < float("inf") for rank, (_, since) in self._seen.items() if rank
            ):
                self._look()
                time.sleep(PERIOD / 10)

    def find_lost(self) -> int | None:
        """Which process is gone, after a call that joins all has failed; None if all beat.

        Raises:
            MinitxError, SystemExit: as `require_no_failure`.
        """
        self._done.set()
        self._thread.join()
        began = time.monotonic()
        lost: int | None = None
        while lost is None and time.monotonic() - began < HANGS_AFTER:
            with contextlib.suppress(Exception):
                self._store.set(f"beat/{self.rank}", f"waits {time.monotonic()}")
            with contextlib.suppress(RuntimeError):
                self._look()
            self.require_no_failure()
            lost = self._lost(GONE_AFTER)
            time.sleep(PERIOD / 4)
        if lost is None:
            self._done.clear()  # `end` may tell why this process ends.
        return lost

    def tell_loss(self) -> None:
        """Say which process is gone, after a collective call has failed; return if none is.

        Raises:
            MinitxError: in the first process, with the reason of one that ended.
            LostProcessError: in the first of those that are left.
            SystemExit: in the others.
        """
        lost = self.find_lost()
        if lost is None:
            return
        self._done.set()
        if self._speaks(lost) and not self.is_quiet:
            raise self.error(lost)
        raise SystemExit(LostProcessError.exit_code)

    def _beat(self) -> None:
        number, silent_since, failed_since = 0, time.monotonic(), 0.0
        while not self._done.wait(PERIOD):
            number += 1
            if time.monotonic() - self._last_beat > 3 * PERIOD:
                # This process was stopped, and perhaps all were: they get time to beat again.
                self._seen = {r: (beat, time.monotonic()) for r, (beat, _) in self._seen.items()}
            self._last_beat = time.monotonic()
            try:
                self._store.set(f"beat/{self.rank}", str(number))
                self._look()
                silent_since = time.monotonic()
            except Exception:
                # The store is gone: with the launcher, or the machine of the first process.
                if time.monotonic() - silent_since > GONE_AFTER:
                    self._leave(None)
            lost = self._lost(HANGS_AFTER)
            if lost is not None:
                self._leave(lost)
            if self.failure is not None and (self.in_joint_pass or not self.go_on):
                # Later, this process notices it at the next step, or ends for the same reason.
                failed_since = failed_since or time.monotonic()
                self._stop_early(time.monotonic() - failed_since)

    def _stop_early(self, seconds: float) -> None:
        # Another has failed, and this process may read a large text for hours yet.
        assert self.failure is not None
        code, what, fix = self.failure
        is_told = seconds > 0.0 or self.in_joint_pass
        if not is_told and self.rank == 0 and callable(signal.getsignal(signal.SIGTERM)):
            os.kill(os.getpid(), signal.SIGTERM)
        elif seconds > HANGS_AFTER:
            self._leave(None, _error_of_other(code, what, fix) if what else None)

    def _watch_store(self) -> None:
        # A call to a store whose process hangs waits for minutes.
        last = time.monotonic()
        while not self._done.wait(PERIOD):
            if time.monotonic() - last > 3 * PERIOD:
                self._last_beat = time.monotonic()  # This process was stopped.
            last = time.monotonic()
            if time.monotonic() - self._last_beat > HANGS_AFTER:
                self._leave(None)

    def _look(self) -> None:
        """Read what the others last wrote."""
        for rank in range(self._size):
            key, about = f"beat/{rank}", f"about/{rank}"
            beat = self._store.get(key) if self._store.check([key]) else b""
            if rank not in self._abouts and self._store.check([about]):
                self._abouts[rank] = json.loads(self._store.get(about))
                now = time.monotonic()
                absent = [r for r in self._seen if r == rank or r not in self._abouts]
                self._seen |= dict.fromkeys(absent, (b"", now))
            if beat.startswith(_ENDED.encode()):
                code, what, fix = json.loads(beat[len(_ENDED) :])
                if code and rank != self.rank:
                    self.failure = self.failure or (code, what, fix)
                self._seen[rank] = (beat, float("inf"))
            elif beat != self._seen[rank][0]:
                self._seen[rank] = (beat, time.monotonic())

    def _lost(self, seconds: float) -> int | None:
        now = time.monotonic()
        return next(
            (
                rank
                for rank, (_, since) in self._seen.items()
                if rank != self.rank
                and now - since > (seconds if rank in self._abouts else self.patience)
            ),
            None,
        )

    def _speaks(self, lost: int | None) -> bool:
        # One of those that are left.
        return self.rank == min((rank for rank in self._abouts if rank != lost), default=0)

    def error(self, lost: int | None) -> LostProcessError:
        """What to say when this process is lost; None if it is not known which."""
        what = "the processes that train together lost each other"
        fix = "Start the command again"
        if lost is not None:
            what = f"process {lost} of {self._size} was lost: killed, hung, or cut off"
            if lost not in self._abouts:
                what = f"process {lost} of {self._size} did not come within {self.patience:g} s"
        if self.go_on:
            fix = f"The last checkpoint is whole; go on with: {self.go_on}"
        return LostProcessError(what, fix)

    def _leave(self, lost: int | None, reason: MinitxError | None = None) -> None:
        # The main thread waits in a call that nothing can interrupt.
        error = reason or self.error(lost)
        if self._speaks(lost):
            with contextlib.suppress(OSError, ValueError):
                sys.stderr.write(f"error: {error}\n")
                sys.stderr.flush()
                if RUN_NOTE in os.environ:
                    told_beside(os.environ[RUN_NOTE]).touch()
        # One that hangs would keep its launcher waiting, and its part of the machine.
        about = self._abouts.get(-1 if lost is None else lost, {})
        if about.get("host") == self._about["host"]:
            with contextlib.suppress(OSError):
                os.kill(about["pid"], signal.SIGKILL)
        os._exit(error.exit_code)
