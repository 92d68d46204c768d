"""Remove, rename and prune runs: never one that is being trained, and nothing by halves.

A run is renamed before its files go, so that a kill leaves nothing that looks like a run.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from minitx.checkpoint.lock import is_held
from minitx.checkpoint.new_run import require_name
from minitx.checkpoint.rundir import REMOVED, RUNS, RunDirectory, is_begun, is_run, named_run
from minitx.errors import BadInputError, RunLockedError
from minitx.files import os_errors_as_bad_input, sync_directory

_NO_ACCESS = "Get write access to it"


def all_runs() -> list[Path]:
    """Directories of all runs in `RUNS`, by name; also of those that have no checkpoint yet."""
    return sorted(path for path in RUNS.glob("*") if is_run(path) or is_begun(path))


def whole_run(path: Path) -> RunDirectory:
    """The run that a person names by its path or its bare name, but by no file or folder in it.

    Raises:
        BadInputError: there is none.
    """
    path = named_run(path)
    if not is_run(path) and not is_begun(path):
        raise BadInputError(f"{path} is no run", "See minitx runs for those there are")
    # A link stays one, and all others have a name and a parent.
    return RunDirectory(path if path.name not in ("", "..") else path.resolve())


def require_idle(run: RunDirectory) -> None:
    """Refuse a run that is being trained, without taking its lock.

    Raises:
        RunLockedError: it is.
    """
    if is_held(run.path / "lock"):
        fix = "Wait until it ends, or stop it with Ctrl-C there"
        raise RunLockedError(f"run {run.path} is being trained", fix)


def remove_run(run: RunDirectory) -> None:
    """Remove a run, and what earlier removals that were killed left beside it.

    Raises:
        RunLockedError: it is being trained.
        BadInputError: it is a link, or may not be removed.
    """
    path = run.path
    if path.is_symlink():
        raise BadInputError(f"{path} is a link to a run", f"Remove the link, or {path.readlink()}")
    with os_errors_as_bad_input(f"{path} can't be removed", _NO_ACCESS):
        for left in [entry for entry in path.parent.iterdir() if REMOVED.fullmatch(entry.name)]:
            shutil.rmtree(left, ignore_errors=True)
        aside = path.with_name(f".{path.name}.minitx-removed")
        with run.lock():
            path.rename(aside)
            sync_directory(path.parent)
            shutil.rmtree(aside)


def rename_run(run: RunDirectory, name: str) -> Path:
    """Give a run another name, in the directory where it is; returns its new path.

    Raises:
        RunLockedError: it is being trained.
        BadInputError: that is no bare name, or is taken.
    """
    if not name or name != Path(name).name or name.startswith((".", "-")):
        raise BadInputError(
            f"{name!r} is no name for a run", "Give one without / and without . or - first"
        )
    require_name(Path(name))
    path = run.path.with_name(name)
    if os.path.lexists(path):
        raise BadInputError(f"{path} is there already", "Choose another name")
    with os_errors_as_bad_input(f"{run.path} can't be renamed", _NO_ACCESS), run.lock():
        run.path.rename(path)
        sync_directory(path.parent)
    return path


def prunable(run: RunDirectory) -> list[Path]:
    """What pruning removes: all checkpoints but the best and the last that is whole, and what
    killed processes left half written. Later ones that are damaged stay, for whoever can mend them.

    Raises:
        BadInputError, DamagedFileError: the run has no whole checkpoint.
    """
    last = run.usable_checkpoint("last")
    before = [step for step in run.steps() if step < int(last.name.removeprefix("step-"))]
    return [*(run.checkpoint(step) for step in before if step != run.best_step()), *run.leftovers()]


def prune_run(run: RunDirectory) -> None:
    """Remove what is `prunable` now, if nobody trains the run.

    Raises:
        RunLockedError, BadInputError, DamagedFileError: nothing is removed.
    """
    with run.lock():
        doomed = prunable(run)
        for step in run.steps():
            if run.checkpoint(step) in doomed:
                run.remove(step)
        run.clear_leftovers()


def disk_bytes(roots: Iterable[Path]) -> tuple[int, int]:
    """Bytes of all files below some directories, and how many of them would be free without these.

    A text that several runs share is there once, and goes with the last of them.
    """
    sizes: dict[tuple[int, int], tuple[int, int]] = {}
    names: dict[tuple[int, int], int] = {}
    for root in roots:
        for directory, _, files in os.walk(root):
            for file in files:
                try:
                    status = (Path(directory) / file).lstat()
                except OSError:  # Pruned meanwhile.
                    continue
                key = status.st_dev, status.st_ino
                sizes[key] = status.st_size, status.st_nlink
                names[key] = names.get(key, 0) + 1
    total = sum(size for size, _ in sizes.values())
    return total, sum(size for key, (size, links) in sizes.items() if names[key] >= links)
