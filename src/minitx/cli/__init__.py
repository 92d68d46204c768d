"""The command line: a command is a signature, made from the options of configs, and one call."""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path


@contextlib.contextmanager
def many_imports() -> Iterator[None]:
    """Import without looking for garbage meanwhile, nor ever in what was imported.

    Importing torch makes some hundred thousand objects that stay to the end. To go through them
    time and again, and once more when the process ends, takes a sixth of the time that a process
    takes for one token.
    """
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def say_used(checkpoints: Iterable[Path | str | None]) -> None:
    """Say on stderr which run, step and checkpoint were used, each in one line."""
    from minitx.report.terminal.printable import visible
    from minitx.workflows.load import used_checkpoint

    for checkpoint in dict.fromkeys(filter(None, checkpoints)):
        line = " ".join(visible(used_checkpoint(Path(checkpoint))).splitlines())
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(f"{line}\n")
