"""The command line: a command is a signature, made from the options of configs, and one call."""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Iterator


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
