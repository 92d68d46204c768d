"""Loggers: a new one is one more file here, or comes from outside (see `minitx.registry`)."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
from collections.abc import Callable, Iterable, Iterator
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


class GuardedLogger(TrainingObserver):
    """A logger that never stops a run: when it fails, that is said once, and it gets nothing more.

    Raises:
        MinitxError: it refuses the run before it has begun.
    """

    def __init__(self, name: str, run: Path, first_step: int) -> None:
        self._name = name
        self._logger: TrainingObserver | None = None
        with self._guarded():
            self._logger = LOGGERS.get(name)(run, first_step)

    def observe(self, event: TrainingEvent) -> None:
        """Pass it on."""
        if self._logger is not None:
            with self._guarded():
                self._logger.observe(event)

    def close(self) -> None:
        """Close it."""
        if self._logger is not None:
            with self._guarded():
                self._logger.close()

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            logger, self._logger = self._logger, None
            if logger is None and isinstance(error, MinitxError):
                raise
            why = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            what = "warning: %s failed, and notes nothing from here on; the run goes on (%s)"
            _log.warning(what, self._name, why)
            with contextlib.suppress(Exception):
                if logger is not None:
                    logger.close()
