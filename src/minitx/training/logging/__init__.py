"""Loggers: a new one is one more file here, or comes from outside (see `minitx.registry`)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from minitx.registry import Registry
from minitx.training.observer import TrainingObserver

LOGGERS: Registry[Callable[[Path, int], TrainingObserver]] = Registry(
    "logger", "minitx.training.logging"
)
"""Makes the logger of a run directory in which so many steps are done, by the logger's name."""
