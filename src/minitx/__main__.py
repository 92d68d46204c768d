"""The `minitx` command, and `python -m minitx`.

Ctrl-C is looked after from here, before anything large is imported. While a module is imported it
must not become an exception: torch takes any error of NumPy's import as NumPy's absence and goes
on, so that the key would have had no effect.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
from types import FrameType
from typing import NoReturn

_IMPORT_SYSTEM = "<frozen importlib._bootstrap>"
_SHOW_CURSOR = "\x1b[?25h"


def main() -> None:
    """Run the command line."""
    # Who started this may have had Ctrl-C ignored, as a shell does for its background jobs.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)
    from minitx.cli.app import main as run
    from minitx.training.launched import is_launched

    try:
        run()
    except SystemExit as end:
        if is_launched():
            _leave(end.code if isinstance(end.code, int) else int(end.code is not None))
        raise


def _leave(code: int) -> NoReturn:
    """End a process that trained with others: all is done, written and said.

    A thread of gloo may just now let go of the last tensor of a broadcast. It needs the interpreter
    for that; while the interpreter ends, it would end the process by SIGABRT instead.
    """
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Stop at once while a module is imported, when nothing is being written; else raise."""
    while frame is not None:
        if frame.f_code.co_filename == _IMPORT_SYSTEM:
            _end()
        frame = frame.f_back
    raise KeyboardInterrupt


def _end() -> NoReturn:
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
    with contextlib.suppress(OSError, ValueError):
        new_line = "\n" + _SHOW_CURSOR if sys.stderr.isatty() else ""
        sys.stderr.write(f"{new_line}error: stopped by Ctrl-C\n")
        sys.stderr.flush()
    os._exit(130)


if __name__ == "__main__":
    main()
