"""A directory for a new run: the next free one, or one that a person names."""

from __future__ import annotations

import contextlib
import re
import shutil
import unicodedata
from pathlib import Path

from minitx.checkpoint.lock import is_held, run_lock
from minitx.checkpoint.rundir import RUNS, RunDirectory
from minitx.errors import BadInputError
from minitx.files import read_bounded, sync_directory

_UNBEGUN = re.compile(
    r"lock|\.?((metrics|film)\.jsonl|run\.toml|loggers\.json|old_holdout\.npy)(\.part)?"
    r"|adapter(/\.?(adapter_config\.json|adapter_model\.safetensors)(\.part)?)?"
    r"|checkpoints(/\.step-\d{6,12}\.part(/.*)?)?"
    r"|data(/\.?((train|holdout)\.(ids|txt|documents)|(corpus|audit)\.json|{tokenizer})(\.part)?)?"
    r"|data/shards(/\.?([0-9a-f]+\.(ids|json)|{tokenizer})(\.part)?)?".replace(
        "{tokenizer}",
        r"((tokenizer(_config)?|special_tokens_map|added_tokens)\.json|chat_template\.jinja)",
    )
)
"""Names in a run that never began. A person's own directory may have such folders, but with more
in them."""


def require_name(path: Path) -> None:
    """Refuse a directory for a run that a terminal or a UTF-8 file can't name."""
    if any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in str(path)):
        raise BadInputError(
            f"the name {str(path)!r} has control characters, or is not UTF-8",
            "Choose another --out",
        )


def create_run(path: Path | None, name: str) -> RunDirectory:
    """Make a new run directory; no path takes the next free ``runs/NAME-NNN``.

    Raises:
        BadInputError: it exists with something in it, or can't be made.
        RunLockedError: another process is just beginning a run there, or trains it.
    """
    try:
        if path is None:
            path = _next_free(RUNS, name)
        else:
            path.mkdir(parents=True, exist_ok=True)
        # A refusal writes no lock.
        if is_held(path / "lock") or _may_hold_a_new_run(path):
            with run_lock(path / "lock"):
                # Looked at again: another process may have had the lock since.
                if _may_hold_a_new_run(path):
                    _make(path)
                    return RunDirectory(path)
    except OSError as error:
        raise BadInputError(
            f"run directory {path or RUNS} can't be made ({error.strerror})",
            "Choose another with --out, where you may write",
        ) from None
    raise BadInputError(
        f"{path} is not empty", "Choose a new directory, or continue that run with minitx resume"
    )


def _may_hold_a_new_run(path: Path) -> bool:
    """Whether it is empty but for what a process left that was killed before its first checkpoint.

    `checkpoints` is made first, and stays.
    """
    inside = [entry.relative_to(path).as_posix() for entry in path.rglob("*")]
    if inside == ["lock"]:
        with contextlib.suppress(OSError, ValueError):
            return not read_bounded(path / "lock").strip(b"\0\n0123456789")
        return False
    has_root = (path / "checkpoints").is_dir()
    return not inside or (has_root and all(map(_UNBEGUN.fullmatch, inside)))


def _make(path: Path) -> None:
    root = path / "checkpoints"
    # What was encoded before a kill is kept: each shard is known by what decides its ids.
    kept = (root, path / "lock", path / "data", path / "data/shards")
    for directory in (path, root, path / "data"):
        for entry in directory.glob("*"):
            if entry not in kept:
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    root.mkdir(exist_ok=True)
    (path / "data").mkdir(exist_ok=True)
    sync_directory(path)
    sync_directory(path.parent)


def _next_free(parent: Path, name: str) -> Path:
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:60] or "corpus"
    parent.mkdir(parents=True, exist_ok=True)
    pattern = re.compile(re.escape(stem) + r"-(\d{3,9})")
    numbers = [int(m[1]) for entry in parent.iterdir() if (m := pattern.fullmatch(entry.name))]
    number = max(numbers, default=0) + 1
    while True:
        path = parent / f"{stem}-{number:03d}"
        try:
            path.mkdir()
        except FileExistsError:
            number += 1  # Another process took it first.
        else:
            return path
