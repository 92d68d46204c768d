"""The run directory: everything of one run in one place.

runs/shakespeare-001/
    run.toml            the resolved config
    metrics.jsonl       loss, perplexity and the rest, line by line
    data/               encoded ids and text of the train part and the holdout
    checkpoints/
        step-000250/    a Hugging Face model directory, with the training state beside it
    last, best          names of checkpoints
    lock                held by the process that trains
"""

from __future__ import annotations

import contextlib
import logging
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from minitx.checkpoint.durable import sync_directory, write_durably
from minitx.checkpoint.lock import RunLock
from minitx.checkpoint.manifest import MANIFEST, verify
from minitx.config import DataConfig, ModelConfig, RunConfig, TokenizerConfig, TrainConfig
from minitx.config.toml import build, dump_toml, parse_toml
from minitx.errors import BadInputError, DamagedFileError

Which = Literal["best", "last"]

RUNS = Path("runs")
"""Where new runs go, and where the newest is looked for; relative to the working directory."""

MODEL_FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
"""What a checkpoint needs to be used as a model."""

_CHECKPOINT = re.compile(r"step-(\d{6,12})")
_log = logging.getLogger("minitx")


class RunDirectory:
    """Paths and pointers of one run.

    Args:
        path: the directory; use `create` or `open` to get one that is sound.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_file = path / "run.toml"
        self.metrics_file = path / "metrics.jsonl"
        self.data = path / "data"
        self.checkpoint_root = path / "checkpoints"

    @classmethod
    def create(cls, path: Path | None, name: str) -> RunDirectory:
        """Make a new run directory.

        Args:
            path: where; None takes the next free ``runs/NAME-NNN``.
            name: of the corpus.

        Raises:
            BadInputError: it exists with something in it, or can't be made.
        """
        try:
            if path is None:
                path = _next_free(RUNS, name)
            else:
                path.mkdir(parents=True, exist_ok=True)
                if any(path.iterdir()):
                    raise BadInputError(
                        f"{path} is not empty",
                        "Choose a new directory, or continue that run with minitx resume",
                    )
            run = cls(path)
            run.checkpoint_root.mkdir()
            run.data.mkdir()
        except OSError as error:
            raise BadInputError(
                f"run directory {path or RUNS} can't be made ({error.strerror})",
                "Choose another with --out, where you may write",
            ) from None
        return run

    @classmethod
    def open(cls, path: Path | None) -> RunDirectory:
        """Use an existing run.

        Args:
            path: the run, or one of its checkpoints; None takes the newest under ``runs``.

        Raises:
            BadInputError: there is none, or it is not a run.
        """
        if path is None:
            return cls(newest_run())
        run = find_run(path)
        if run is None:
            raise _not_a_run(path, "a run directory")
        return run

    def read_config(self) -> RunConfig:
        """Parse `run.toml`.

        Raises:
            BadInputError: it does not parse, or a value is out of range.
        """
        tables = parse_toml(self.config_file)
        names = ("data", "tokenizer", "model", "train")
        if set(tables) != set(names) or not all(isinstance(t, dict) for t in tables.values()):
            raise BadInputError(
                f"{self.config_file} does not have exactly the tables {', '.join(names)}",
                "Restore it from another run of the same corpus",
            )
        where = f"{self.config_file}"
        return RunConfig(
            data=build(DataConfig, tables["data"], f"{where} [data]"),
            tokenizer=build(TokenizerConfig, tables["tokenizer"], f"{where} [tokenizer]"),
            model=build(ModelConfig, tables["model"], f"{where} [model]"),
            train=build(TrainConfig, tables["train"], f"{where} [train]"),
        )

    def write_config(self, config: RunConfig) -> None:
        """Write `run.toml`, durably."""
        tables = {
            "data": config.data,
            "tokenizer": config.tokenizer,
            "model": config.model,
            "train": config.train,
        }
        write_durably(self.config_file, dump_toml(tables).encode())

    def lock(self) -> RunLock:
        """The lock to hold while writing to this run."""
        return RunLock(self.path / "lock")

    def checkpoint(self, step: int) -> Path:
        """Directory of the checkpoint after `step` steps, there or not."""
        return self.checkpoint_root / f"step-{step:06d}"

    def steps(self) -> list[int]:
        """Steps of the finished checkpoints, oldest first."""
        if not self.checkpoint_root.is_dir():
            return []
        found = []
        for entry in self.checkpoint_root.iterdir():
            match = _CHECKPOINT.fullmatch(entry.name)
            if match and (entry / MANIFEST).is_file():
                found.append(int(match[1]))
        return sorted(found)

    def point(self, which: Which, step: int) -> None:
        """Make `last` or `best` name a checkpoint."""
        write_durably(self.path / which, f"{self.checkpoint(step).name}\n".encode())

    def pointed(self, which: Which) -> int | None:
        """Step that `last` or `best` names; None if there is none such on disk."""
        try:
            with (self.path / which).open("rb") as file:
                text = file.read(64).decode("ascii", "replace")
        except OSError:
            return None
        match = _CHECKPOINT.fullmatch(text.strip())
        step = int(match[1]) if match else None
        return step if step in self.steps() else None

    def candidates(self, which: Which) -> list[int]:
        """Steps to try in turn: the one pointed to, then the others, newest first.

        A checkpoint newer than `last` says (the process died between the two writes) comes first
        for `last`.
        """
        newest_first = self.steps()[::-1]
        best = self.pointed("best") if which == "best" else None
        if best is None:
            return newest_first
        return [best, *(step for step in newest_first if step != best)]

    def usable_checkpoint(self, which: Which, names: Iterable[str] | None = None) -> Path:
        """The first candidate whose files are as they were written; others are told about.

        Args:
            which: `best` or `last`.
            names: files that must be sound; None for all.

        Raises:
            BadInputError: the run has no checkpoint yet.
            DamagedFileError: all of them are damaged.
        """
        candidates = self.candidates(which)
        if not candidates:
            raise BadInputError(
                f"run {self.path} has no checkpoint yet",
                "Wait for its first checkpoint, or train again: minitx train",
            )
        names = None if names is None else tuple(names)
        failure: DamagedFileError | None = None
        for step in candidates:
            directory = self.checkpoint(step)
            try:
                verify(directory, names)
            except DamagedFileError as error:
                _log.warning("warning: %s", error.what)
                failure = failure or error
                continue
            if failure is not None:
                _log.warning("warning: using %s instead", directory)
            return directory
        assert failure is not None
        raise DamagedFileError(
            f"none of the {len(candidates)} checkpoints of {self.path} is whole; first: "
            f"{failure.what}",
            "Restore the run from a copy, or train again",
        )

    def prune(self, keep: int) -> None:
        """Remove all but the newest `keep` checkpoints and the best."""
        steps = self.steps()
        spared = {*steps[-keep:], self.pointed("best"), self.pointed("last")}
        for step in steps:
            if step not in spared:
                self.remove(step)

    def clear_leftovers(self) -> None:
        """Remove what a killed process left half written or half removed."""
        for pattern in (".step-*.part", ".step-*.old", "step-*"):
            for entry in self.checkpoint_root.glob(pattern):
                if pattern != "step-*" or not (entry / MANIFEST).exists():
                    shutil.rmtree(entry, ignore_errors=True)

    def remove(self, step: int) -> None:
        """Remove a checkpoint; nobody ever finds one with half of its files."""
        directory = self.checkpoint(step)
        doomed = directory.with_name(f".{directory.name}.old")
        with contextlib.suppress(OSError):
            directory.rename(doomed)
            sync_directory(directory.parent)
        shutil.rmtree(doomed, ignore_errors=True)


def find_run(path: Path) -> RunDirectory | None:
    """The run that a path is or lies in (a checkpoint, its parent); None if it is in none."""
    # Two levels up: run/checkpoints/step-000250.
    for candidate in (path, *list(path.absolute().parents)[:2]):
        if (candidate / "run.toml").is_file():
            return RunDirectory(candidate)
    return None


def newest_run(parent: Path = RUNS) -> Path:
    """The run most recently trained.

    Raises:
        BadInputError: there is none.
    """
    found = [entry for entry in parent.glob("*") if (entry / "run.toml").is_file()]
    if not found:
        raise BadInputError(
            f"there is no run yet in {parent}{'/' if parent.name else ''}",
            "Train one first with: minitx train corpus.txt, or name its directory",
        )
    return max(found, key=lambda run: (_last_trained(run), run.name))


def resolve_checkpoint(path: Path | None, which: Which = "best") -> Path:
    """The checkpoint directory that a person means; its model files fit their digests.

    Args:
        path: a run or a checkpoint directory; None for the newest run.
        which: which checkpoint of a run. A damaged one is named in a warning and the next best
            is taken.

    Raises:
        BadInputError: there is no such directory, or it is neither a run nor a checkpoint.
        DamagedFileError: a checkpoint named directly is damaged, or all of a run are.
    """
    if path is None:
        path = newest_run()
    if (path / "run.toml").is_file():
        return RunDirectory(path).usable_checkpoint(which, MODEL_FILES)
    if not (path / "config.json").is_file():
        raise _not_a_run(path, "a run or checkpoint directory")
    if (path / MANIFEST).is_file():
        try:
            verify(path, MODEL_FILES)
        except DamagedFileError as error:
            raise DamagedFileError(error.what, _advice(path)) from None
    return path


def _advice(damaged: Path) -> str:
    run = find_run(damaged)
    for step in [] if run is None else run.candidates("last"):
        assert run is not None
        other = run.checkpoint(step)
        if other.name != damaged.name:
            with contextlib.suppress(DamagedFileError):
                verify(other, MODEL_FILES)
                return f"Use {other} instead, which is whole"
    return "Restore it from a copy, or train again"


def _not_a_run(path: Path, wanted: str) -> BadInputError:
    if not path.exists():
        return BadInputError(f"{path} does not exist", f"Name {wanted}")
    if not path.is_dir():
        return BadInputError(f"{path} is a file", f"Name {wanted}")
    inside = sorted(entry.name for entry in path.glob("*") if (entry / "run.toml").is_file())
    hint = f", for example {path / inside[-1]}" if inside else ""
    return BadInputError(f"{path} is not {wanted}", f"Name one that minitx train made{hint}")


def _last_trained(run: Path) -> float:
    times = [0.0]
    for name in ("run.toml", "metrics.jsonl", "last"):
        with contextlib.suppress(OSError):
            times.append((run / name).stat().st_mtime)
    return max(times)


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
