"""Loggers: a new one is one more file here, or comes from outside (see `minitx.registry`)."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import queue
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from minitx.errors import BadInputError, MinitxError
from minitx.registry import Registry
from minitx.training.observer import TrainingEvent, TrainingObserver

LOGGERS: Registry[Callable[[Path, int], TrainingObserver]] = Registry(
    "logger", "minitx.training.logging"
)
"""Makes the logger of a run directory in which so many steps are done, by the logger's name."""

_log = logging.getLogger("minitx")


def required_loggers(names: Iterable[str]) -> tuple[str, ...]:
    """The same names, each once, before time is spent on a run.

    Raises:
        BadInputError: one is not known, or needs a package that is not installed.
    """
    for name in names:
        kind: Any = LOGGERS.get(name)
        package = getattr(kind, "package", "")
        if package and importlib.util.find_spec(package) is None:
            kind.load()
        if name == "metrics":
            raise BadInputError("metrics.jsonl is written in every run", "Leave out that --log-to")
    return tuple(dict.fromkeys(names))


PATIENCE = 60.0
"""Seconds in which a logger has to begin, and to end."""

_WAITING = 10_000
"""Events that may wait for a logger."""


class GuardedLogger(TrainingObserver):
    """A logger that never stops a run or keeps it waiting: it works in a thread of its own.

    When it fails or hangs, that is said once, and it gets nothing more.

    Raises:
        MinitxError: it refuses the run before it has begun.
    """

    def __init__(self, name: str, run: Path, first_step: int) -> None:
        self._name = name
        self._events: queue.Queue[TrainingEvent | None] = queue.Queue(_WAITING)
        self._has_begun, self._has_ended = threading.Event(), threading.Event()
        self._refusal: MinitxError | None = None
        self._thread = threading.Thread(
            target=self._work, args=(run, first_step), name=f"logger {name}", daemon=True
        )
        self._thread.start()
        if not self._has_begun.wait(PATIENCE):
            self._give_up(f"did not begin within {PATIENCE:g} s")
        if self._refusal is not None:
            raise self._refusal

    def observe(self, event: TrainingEvent) -> None:
        """Pass it on."""
        if not self._has_ended.is_set():
            try:
                self._events.put_nowait(event)
            except queue.Full:
                self._give_up(f"is {_WAITING:,} events behind")

    def close(self) -> None:
        """Close it, when it has noted what it was told."""
        if not self._has_ended.is_set():
            with contextlib.suppress(queue.Full):
                self._events.put(None, timeout=PATIENCE)
            if not self._has_ended.wait(PATIENCE):
                self._give_up(f"did not end within {PATIENCE:g} s")

    def _work(self, run: Path, first_step: int) -> None:
        logger: TrainingObserver | None = None
        try:
            logger = LOGGERS.get(self._name)(run, first_step)
            self._has_begun.set()
            while not self._has_ended.is_set() and (event := self._events.get()) is not None:
                logger.observe(event)
            logger.close()
        except BaseException as error:
            if logger is None and isinstance(error, MinitxError):
                self._refusal = error
            else:
                why = " ".join(f"{type(error).__name__}: {error}".split())[:200]
                self._give_up("failed", f" ({why})")
            with contextlib.suppress(Exception):
                if logger is not None:
                    logger.close()
        finally:
            self._has_ended.set()
            self._has_begun.set()

    def _give_up(self, what: str, why: str = "") -> None:
        if not self._has_ended.is_set():
            self._has_ended.set()
            told = "warning: %s %s, and notes nothing from here on; the run goes on%s"
            _log.warning(told, self._name, what, why)
