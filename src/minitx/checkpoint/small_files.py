"""Small files read with care: what is no plain file, or is too large, is refused unread."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def read_small_file(path: Path, largest: int = 1 << 20) -> bytes:
    """Content of a plain file of at most `largest` bytes.

    A named pipe, which would wait for a writer for ever, and a file of any size are told apart
    before anything is read.

    Raises:
        OSError: it can't be opened or read.
        ValueError: it is no plain file, or is too large.
    """
    # Windows has neither flag's need: there pipes have names of their own.
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with os.fdopen(handle, "rb") as file:
        about = os.fstat(handle)
        if not stat.S_ISREG(about.st_mode):
            raise ValueError("it is not a plain file")
        if about.st_size > largest:
            raise ValueError(f"it has {about.st_size:,} bytes, more than {largest:,}")
        return file.read(largest)
