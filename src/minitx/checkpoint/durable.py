"""Files that are either the old or the new one after a crash, never half of each.

Write beside, flush to disk, rename, flush the directory: a rename within one directory is atomic
on POSIX file systems, and the two flushes make its order survive a power cut.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def write_durably(path: Path, content: bytes) -> None:
    """Replace a file in one rename, after its content is on disk.

    Raises:
        OSError: nothing is left behind, and an existing file is as it was.
    """
    beside = path.with_name(f".{path.name}.part")
    try:
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    sync_directory(path.parent)


def sync_file(path: Path) -> None:
    """Wait until a file's content is on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_directory(directory: Path) -> None:
    """Wait until the names in a directory are on disk, where the system can."""
    # Windows can't open a directory; there the rename alone has to do.
    with contextlib.suppress(OSError):
        sync_file(directory)
