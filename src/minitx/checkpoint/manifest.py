"""The manifest of a checkpoint: which files it has, how long they are, and their digests.

It is written last. A checkpoint without one was never finished, or lost it; a file that no longer
fits its line was damaged since. The manifest holds a digest of itself, so damage to it is found
like damage to any other file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from minitx.errors import DamagedFileError
from minitx.files import describe_damage, file_digest, read_json

MANIFEST = "manifest.json"
CARD = "README.md"
"""What a checkpoint says of itself to people, who may add to it: the manifest leaves it out."""
_FORMAT = 2
_LARGEST_STEP = 10**12


def manifest_bytes(directory: Path, step: int, best_step: int | None = None) -> bytes:
    """The manifest of the files in a directory, as they are now.

    `best_step` is that of the run's best checkpoint so far; None before there is one.
    """
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": file_digest(path)}
        for path in sorted(directory.iterdir())
        if path.name not in (MANIFEST, CARD)
    }
    content: dict[str, Any] = {"format": _FORMAT, "step": step, "best_step": best_step}
    content["files"] = files
    content["sha256"] = _own_digest(content)
    return (json.dumps(content, indent=2, sort_keys=True) + "\n").encode()


def read_manifest(directory: Path) -> dict[str, Any]:
    """Parse a manifest and check its form and its own digest, not yet the files.

    Raises:
        DamagedFileError: it is missing, is no manifest, or names a file outside the directory.
    """
    path = directory / MANIFEST
    try:
        content = read_json(path)
        if content["format"] != _FORMAT:
            raise ValueError(f"format {content['format']!r} is not {_FORMAT}")
        for name, entry in content["files"].items():
            if name in ("", ".", "..") or "/" in name or "\\" in name or "\0" in name:
                raise ValueError(f"it names {name!r}, which is not a file of this directory")
            if type(entry["bytes"]) is not int or not isinstance(entry["sha256"], str):
                raise ValueError(f"the entry of {name!r} is malformed")
        if not _is_step(content["step"]):
            raise ValueError("its step is not a number of steps")
        if content["best_step"] is not None and not _is_step(content["best_step"]):
            raise ValueError("its best step is not a number of steps")
        if content["sha256"] != _own_digest(content):
            raise ValueError("it was changed: its own digest differs")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedFileError(f"{path} can't be used: {describe_damage(error)}", _FIX) from None
    return content


def weights_digest(directory: Path) -> str | None:
    """SHA-256 of a model directory's weights as its manifest has it; None without one to trust."""
    try:
        return str(read_manifest(directory)["files"]["model.safetensors"]["sha256"])
    except (DamagedFileError, KeyError):
        return None  # A directory of another program has none.


def verify(
    directory: Path,
    names: Iterable[str] | None = None,
    *,
    required: Iterable[str] = (),
    step: int | None = None,
) -> int:
    """Check the named files (or all) against the manifest; return the step it names.

    Those and the `required` ones must be in the manifest, which must name `step`, if that is given.

    Raises:
        DamagedFileError: naming the first file that is missing, is a link, or was changed.
    """
    manifest = read_manifest(directory)
    if step is not None and manifest["step"] != step:
        raise DamagedFileError(
            f"{directory} holds step {manifest['step']:,} by its manifest, not step {step:,}", _FIX
        )
    entries: dict[str, dict[str, Any]] = manifest["files"]
    names = tuple(entries if names is None else names)
    for name in (*required, *names):
        if name not in entries:
            raise DamagedFileError(f"{directory / name} is not in the checkpoint's manifest", _FIX)
    for name in names:
        if wrong := _difference(directory / name, entries[name]):
            raise DamagedFileError(f"{directory / name} {wrong}", _FIX)
    return int(manifest["step"])


def _difference(path: Path, entry: dict[str, Any]) -> str | None:
    """How a file differs from its entry; None if it does not."""
    try:
        if path.is_symlink() or not path.is_file():
            return "is missing or not a plain file"
        if path.stat().st_size != entry["bytes"]:
            return f"has {path.stat().st_size:,} bytes instead of {entry['bytes']:,}"
        same = file_digest(path) == entry["sha256"]
        return None if same else "was changed: its digest differs"
    except OSError as error:
        return f"can't be read ({error.strerror or error})"


def _own_digest(content: dict[str, Any]) -> str:
    rest = {key: value for key, value in content.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _is_step(value: Any) -> bool:
    return type(value) is int and 0 <= value < _LARGEST_STEP


_FIX = "Use another checkpoint of the run, or remove this one"
