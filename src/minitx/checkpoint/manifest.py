"""The manifest of a checkpoint: which files it has, how long they are, and their digests.

It is written last. A checkpoint without one was never finished; a file that no longer fits its
line was damaged since.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from minitx.errors import DamagedFileError

MANIFEST = "manifest.json"
_FORMAT = 1
_LARGEST_MANIFEST = 1 << 20


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal; memory does not grow with its size."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def manifest_bytes(directory: Path, step: int) -> bytes:
    """The manifest of the files in a directory, as they are now."""
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": file_digest(path)}
        for path in sorted(directory.iterdir())
        if path.name != MANIFEST
    }
    content = {"format": _FORMAT, "step": step, "files": files}
    return (json.dumps(content, indent=2, sort_keys=True) + "\n").encode()


def read_manifest(directory: Path) -> dict[str, Any]:
    """Parse a manifest and check its form, not yet the files.

    Raises:
        DamagedFileError: it is missing, is no manifest, or names a file outside the directory.
    """
    path = directory / MANIFEST
    try:
        if path.stat().st_size > _LARGEST_MANIFEST:
            raise ValueError("it is too large")
        content = json.loads(path.read_bytes())
        if content["format"] != _FORMAT:
            raise ValueError(f"format {content['format']!r} is not {_FORMAT}")
        if type(content["step"]) is not int or content["step"] < 0:
            raise ValueError("its step is not a number of steps")
        for name, entry in content["files"].items():
            if name in ("", ".", "..") or "/" in name or "\\" in name or "\0" in name:
                raise ValueError(f"it names {name!r}, which is not a file of this directory")
            if type(entry["bytes"]) is not int or not isinstance(entry["sha256"], str):
                raise ValueError(f"the entry of {name} is malformed")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = f"lacks {error}" if isinstance(error, KeyError) else str(error)
        if isinstance(error, OSError):
            reason = error.strerror or str(error)
        raise DamagedFileError(f"{path} can't be used: {reason}", _FIX) from None
    return dict(content)


def verify(directory: Path, names: Iterable[str] | None = None) -> int:
    """Check files against the manifest; return the step it names.

    Args:
        directory: a checkpoint.
        names: files to check; None checks all. Each must be in the manifest.

    Raises:
        DamagedFileError: naming the first file that is missing, is a link, or was changed.
    """
    manifest = read_manifest(directory)
    entries: dict[str, dict[str, Any]] = manifest["files"]
    for name in entries if names is None else names:
        path = directory / name
        if name not in entries:
            raise DamagedFileError(f"{path} is not in the checkpoint's manifest", _FIX)
        if path.is_symlink() or not path.is_file():
            raise DamagedFileError(f"{path} is missing or not a plain file", _FIX)
        size, expected = path.stat().st_size, entries[name]["bytes"]
        if size != expected:
            raise DamagedFileError(f"{path} has {size:,} bytes instead of {expected:,}", _FIX)
        if file_digest(path) != entries[name]["sha256"]:
            raise DamagedFileError(f"{path} was changed: its digest differs", _FIX)
    return int(manifest["step"])


_FIX = "Use another checkpoint of the run, or remove this one"
