"""The run directory: everything of one run in one place, as `docs/files.md` draws it.

`last` and `best` in it are for people: what counts stands in the manifests of its checkpoints.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Literal, TypeVar, get_args

from minitx.checkpoint.lock import run_lock
from minitx.checkpoint.manifest import MANIFEST, read_manifest, verify
from minitx.config import RunConfig
from minitx.config.checks import require_one_of
from minitx.config.toml import config_bytes, read_config
from minitx.errors import BadInputError, DamagedFileError, MinitxError
from minitx.files import os_errors_as_bad_input, possible_path, sync_directory, write_atomically

RUNS = Path("runs")
"""Where new runs go, and where the newest is looked for; relative to the working directory."""

T = TypeVar("T")
Which = Literal["best", "last"]

MODEL_FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
"""What a checkpoint needs to be used as a model."""

CONFIG_COPY = "run_copy.toml"
"""In a checkpoint: `run.toml` as it stood, for when that is damaged."""

REMOVED = re.compile(r"\..*\.minitx-removed", re.DOTALL)
"""Name of a run that is being removed."""

_CHECKPOINT = re.compile(r"step-(\d{6,12})")
_RESTORE = "Restore it from a copy, or train again"
_log = logging.getLogger("minitx")


class RunDirectory:
    """Paths and pointers of one run; `open` and `create_run` give one that is sound."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_file = path / "run.toml"
        self.metrics_file = path / "metrics.jsonl"
        self.film_file = path / "film.jsonl"
        self.data = path / "data"
        # Another encoded corpus waits there until nothing can be refused any more.
        self.new_data = path / ".data.new"
        self._old_data = path / ".data.old"
        self.checkpoint_root = path / "checkpoints"

    @classmethod
    def open(cls, path: Path | None) -> RunDirectory:
        """Use an existing run, by its path, its name or a checkpoint; None takes the newest.

        Raises:
            BadInputError: there is none, or it is not a run.
        """
        if path is None:
            return cls(newest_run())
        path = named_run(path)
        run = find_run(path)
        if run is None:
            raise _not_a_run(path, "a run directory")
        return run

    def read_config(self) -> RunConfig:
        """Parse `run.toml`; if it is damaged, the copy in the newest checkpoint that has one.

        Raises:
            DamagedFileError: neither is as it was written.
        """
        try:
            return read_config(self.config_file)
        except DamagedFileError as error:
            for copy in self._whole((CONFIG_COPY,)):
                with contextlib.suppress(DamagedFileError):
                    config = read_config(copy / CONFIG_COPY)
                    _log.warning("warning: %s; using %s instead", error.what, copy / CONFIG_COPY)
                    return config
            raise

    def write_config(self, config: RunConfig) -> None:
        """Write `run.toml`, durably.

        Raises:
            BadInputError: it can't be written.
        """
        fix = "Make room, or get write access to the run"
        with os_errors_as_bad_input(f"{self.config_file} can't be written", fix):
            write_atomically(self.config_file, config_bytes(config))

    def lock(self) -> AbstractContextManager[None]:
        """The lock to hold while writing to this run."""
        return run_lock(self.path / "lock")

    def checkpoint(self, step: int) -> Path:
        """Directory of the checkpoint after `step` steps, there or not."""
        return self.checkpoint_root / f"step-{step:06d}"

    def steps(self) -> list[int]:
        """Steps of the checkpoints that have a manifest, oldest first."""
        return [
            step for step in self._named_steps() if (self.checkpoint(step) / MANIFEST).is_file()
        ]

    def _named_steps(self) -> list[int]:
        # Also of those that lost their manifest.
        if not self.checkpoint_root.is_dir():
            return []
        what = f"{self.checkpoint_root} can't be read"
        with os_errors_as_bad_input(what, "Restore access to it"):
            names = [entry.name for entry in self.checkpoint_root.iterdir()]
        matches = [_CHECKPOINT.fullmatch(name) for name in names]
        return sorted(int(match[1]) for match in matches if match)

    def point(self, which: Which, step: int) -> None:
        """Make `last` or `best` name a checkpoint."""
        write_atomically(self.path / which, f"{self.checkpoint(step).name}\n".encode())

    def best_step(self) -> int | None:
        """Step of the best checkpoint; None if there was no evaluation yet, or it is gone."""
        best = self.noted_best()
        return best if best in self.steps() else None

    def noted_best(self) -> int | None:
        """Step of the best checkpoint, there or not, as the newest readable manifest tells it."""
        for step in reversed(self.steps()):
            with contextlib.suppress(DamagedFileError):
                best: int | None = read_manifest(self.checkpoint(step))["best_step"]
                return best
        return None

    def usable_checkpoint(
        self, which: Which, names: Sequence[str] | None = None, required: Sequence[str] = ()
    ) -> Path:
        """The first checkpoint whose files are as they were written; others are told about.

        The best comes first, or the newest. The manifest must name the `required` files, and those
        of `names` (None for all in the manifest) must be sound.

        Raises:
            BadInputError: the run has no checkpoint yet.
            DamagedFileError: all of them are damaged.
        """
        damaged: list[str] = []
        for directory, damage in self._checked(which, names, required):
            if damage is None:
                if damaged:
                    _log.warning("warning: using %s instead", directory)
                return directory
            _log.warning("warning: %s", damage.what)
            damaged.append(damage.what)
        if not damaged:
            raise _no_checkpoint(self.path)
        raise DamagedFileError(
            f"none of the {len(damaged)} checkpoints of {self.path} is whole; first: {damaged[0]}",
            "Restore the run from a copy, or train again",
        )

    def _checked(
        self, which: Which, names: Sequence[str] | None = None, required: Sequence[str] = ()
    ) -> Iterator[tuple[Path, DamagedFileError | None]]:
        """Checkpoints, the best first if asked for, then the newest, with what is wrong in each."""
        best = self.best_step() if which == "best" else None
        for step in sorted(self._named_steps(), key=lambda step: (step != best, -step)):
            directory = self.checkpoint(step)
            try:
                verify(directory, names, required=required, step=step)
            except DamagedFileError as error:
                if not os.path.lexists(directory):  # Pruned since it was listed: look again.
                    yield from self._checked(which, names, required)
                    return
                yield directory, error
            else:
                yield directory, None

    def _whole(self, names: Sequence[str]) -> Iterator[Path]:
        """Directories of checkpoints in which these files are as written, newest first."""
        return (path for path, damage in self._checked("last", names) if damage is None)

    def prune(self, keep: int) -> None:
        """Remove all but the newest `keep` checkpoints and the best.

        That of step 0, in which nothing was learned yet, goes with the first other.
        """
        steps = self.steps()
        spared = {*[step for step in steps if step or len(steps) == 1][-keep:], self.best_step()}
        for step in self._named_steps():
            if step not in spared:
                self.remove(step)

    def drop_after(self, step: int) -> None:
        """Remove checkpoints of later steps: damaged ones, or the run would go on from there."""
        for later in self._named_steps():
            if later > step:
                self.remove(later)

    def leftovers(self) -> list[Path]:
        """What a killed process left half written or half removed."""
        data = [path for path in (self.new_data, self._old_data) if path.exists()]
        ends = ("part", "old")
        return [path for end in ends for path in self.checkpoint_root.glob(f".step-*.{end}")] + data

    def clear_leftovers(self) -> None:
        """Remove them."""
        if self._old_data.exists() and not self.data.exists():
            self._old_data.rename(self.data)
        for entry in self.leftovers():
            shutil.rmtree(entry, ignore_errors=True)

    def adopt_new_data(self) -> None:
        """Let what is in `new_data` be the run's corpus; killed in between, the old one is."""
        if self.data.exists():
            self.data.rename(self._old_data)
        self.new_data.rename(self.data)
        sync_directory(self.path)
        shutil.rmtree(self._old_data, ignore_errors=True)

    def remove(self, step: int) -> None:
        """Remove a checkpoint; nobody ever finds one with half of its files."""
        directory = self.checkpoint(step)
        doomed = directory.with_name(f".{directory.name}.old")
        with contextlib.suppress(OSError):
            directory.rename(doomed)
            sync_directory(directory.parent)
        shutil.rmtree(doomed, ignore_errors=True)


def named_run(path: Path) -> Path:
    """The path that a person means: `name` is `runs/name` where there is no such path.

    Raises:
        BadInputError: no file can have that path, or it is not UTF-8, as safetensors asks.
    """
    if any("\ud800" <= character <= "\udfff" for character in str(path)):
        fix = "Rename it, or change to that directory and name it as ."
        raise BadInputError(f"the name {path} is not UTF-8, so its files can't be opened", fix)
    in_runs = RUNS / possible_path(path)
    return in_runs if not os.path.lexists(path) and in_runs.is_dir() else path


def find_run(path: Path) -> RunDirectory | None:
    """The run that a path is or lies in (a checkpoint, its parent); None if it is in none."""
    # Two levels up: run/checkpoints/step-000250.
    for candidate in (path, *list(path.absolute().parents)[:2]):
        if is_run(candidate):
            return RunDirectory(candidate)
    return None


def is_run(path: Path) -> bool:
    """Whether a directory is a run; also one that lost its `run.toml`: its checkpoints have copies.

    What is being removed is none any more, also where a kill left a part of it.
    """
    if REMOVED.fullmatch(path.name):
        return False
    return (path / "run.toml").is_file() or bool(RunDirectory(path).steps())


def is_begun(path: Path) -> bool:
    """Whether a directory is what a run makes first of all, before it has anything to show."""
    has_rooms = (path / "checkpoints").is_dir() and (path / "data").is_dir()
    return has_rooms and not REMOVED.fullmatch(path.name)


def newest_run() -> Path:
    """The run most recently trained.

    Raises:
        BadInputError: there is none.
    """
    runs = [entry for entry in RUNS.glob("*") if is_run(entry)]
    if not runs:
        raise BadInputError(
            f"there is no run yet in {RUNS}/",
            "Train one first with: minitx train corpus.txt, or name its directory",
        )
    return max(runs, key=lambda run: (last_trained(run), run.name))


def use_checkpoints(
    find: Callable[[], list[Path]], use: Callable[[list[Path]], T], looks: int = 10
) -> T:
    """What `use` makes of the checkpoints that `find` gives.

    Both are called again, so many times in all, where training pruned one of them meanwhile.
    """
    directories = find()
    try:
        return use(directories)
    except (MinitxError, OSError):
        if looks == 1 or all(map(os.path.lexists, directories)):
            raise
    return use_checkpoints(find, use, looks - 1)


def use_checkpoint(find: Callable[[], Path], use: Callable[[Path], T]) -> T:
    """As `use_checkpoints`, of one."""
    return use_checkpoints(lambda: [find()], lambda directories: use(directories[0]))


def resolve_checkpoint(path: Path | None, which: Which = "best") -> Path:
    """The checkpoint directory that a person means; its model files fit their digests.

    Of a run (the newest, if none is named), a damaged checkpoint is named in a warning, and the
    next best is taken.

    Raises:
        BadInputError: there is no such directory, or it is neither a run nor a checkpoint.
        DamagedFileError: a checkpoint named directly is damaged, or all of a run are.
    """
    require_one_of("checkpoint", which, get_args(Which))
    path = newest_run() if path is None else named_run(path)
    if is_run(path):
        return RunDirectory(path).usable_checkpoint(which, MODEL_FILES)
    run, match = find_run(path), _CHECKPOINT.fullmatch(path.absolute().name)
    step = int(match[1]) if run is not None and match and path.is_dir() else None
    if step is None and not (path / "config.json").is_file():
        raise _not_a_run(path, "a run or checkpoint directory")
    # Model directories of other programs have no manifest; a run's checkpoint always has one.
    if step is not None or (path / MANIFEST).exists():
        try:
            verify(path, MODEL_FILES, step=step)
        except DamagedFileError as error:
            other = next(run._whole(MODEL_FILES), None) if run is not None else None
            fix = f"Use {other} instead, which is whole" if other is not None else _RESTORE
            raise DamagedFileError(error.what, fix) from None
    return path


def _no_checkpoint(run: Path) -> BadInputError:
    return BadInputError(
        f"run {run} has no checkpoint yet",
        "Wait for it; if the run was killed, give its minitx train command again, which encodes "
        "only what is left",
    )


def _not_a_run(path: Path, wanted: str) -> BadInputError:
    if not path.exists():
        return BadInputError(f"{path} does not exist", f"Name {wanted}")
    if not path.is_dir():
        return BadInputError(f"{path} is a file", f"Name {wanted}")
    if is_begun(path):
        return _no_checkpoint(path)
    inside = sorted(entry.name for entry in path.glob("*") if is_run(entry))
    hint = f", for example {path / inside[-1]}" if inside else ""
    return BadInputError(f"{path} is not {wanted}", f"Name one that minitx train made{hint}")


def last_trained(run: Path) -> float:
    """When a run was last written to by training, in seconds since 1970; 0 if nobody knows."""
    times = [0.0]
    for name in ("run.toml", "metrics.jsonl", "last"):
        with contextlib.suppress(OSError):
            times.append((run / name).stat().st_mtime)
    return max(times)
