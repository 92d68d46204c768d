"""Which code of checkpoints a person has agreed to run: digests, in the user's cache directory.

Trust is in the code, to the byte, wherever it lies: a directory is trusted for nothing that it says
of itself.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from minitx.files import cache_directory, json_bytes, read_json, write_atomically

KEPT_IN = "trusted_code.json"

_known: set[str] = set()
_all = False


def trust(digest: str) -> None:
    """Let code with this SHA-256 run; from now on, where the user has a cache directory."""
    _known.update((digest, *_kept()))
    if (file := _file()) is not None:
        with contextlib.suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(file, json_bytes({"sha256": sorted(_known)}))


def trust_all() -> None:
    """Let whatever code this process opens run, and trust it: what ``--trust-code`` says."""
    global _all
    _all = True


@contextlib.contextmanager
def trusting(wanted: bool) -> Iterator[None]:
    """The same for a while, if `wanted`."""
    global _all
    before, _all = _all, wanted or _all
    try:
        yield
    finally:
        _all = before


def is_trusted(digest: str) -> bool:
    """Whether code with this SHA-256 may run."""
    if _all:
        trust(digest)
    return digest in _known or digest in _kept()


def _kept() -> list[str]:
    file = _file()
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        if file is not None:
            return [str(digest) for digest in read_json(file)["sha256"]]
    return []


def _file() -> Path | None:
    directory = cache_directory()
    return None if directory is None else directory / KEPT_IN
