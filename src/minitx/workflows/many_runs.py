"""All runs at a glance, one in full, and what two differ in: `minitx runs` as library calls.

    for run in overview(all_runs()):
        print(run.name, run.state, run.bits_per_byte)

Nothing here loads torch.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from minitx.checkpoint.lock import is_held
from minitx.checkpoint.run_changes import disk_bytes
from minitx.checkpoint.rundir import RUNS, RunDirectory, last_trained
from minitx.config import RunConfig
from minitx.errors import MinitxError
from minitx.files import as_plain, file_digest, read_json
from minitx.training.history import read_history
from minitx.training.logging.metrics_file import read_metrics

_NO_SETTINGS = ("working_directory", "leaked", "leaks", "skipped", "step_decisions")

State = Literal["running", "stopped", "crashed", "finished"]


@dataclass(frozen=True)
class RunSummary:
    """One run in a line.

    Attributes:
        state: running while its lock is held; else stopped or finished, if it said so when it
            ended; else crashed.
        steps: that are planned; None if its config can't be read.
        bits_per_byte: of the best evaluation during training, on a part `scored` of the holdout.
        size: bytes on disk, texts that it shares with other runs included.
        age: seconds since it was last trained.
        corpus: files, as they were given.
        group: runs of the same number have the same holdout, so that their figures compare.
    """

    name: str
    state: State
    step: int
    steps: int | None
    bits_per_byte: float | None
    best_step: int | None
    scored: float | None
    parameters: int | None
    size: int
    age: float
    corpus: tuple[str, ...]
    group: int

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        values: dict[str, Any] = as_plain(asdict(self))
        return values


def overview(paths: Iterable[Path]) -> list[RunSummary]:
    """Runs that compare stand together, the best first; the group last trained comes first."""
    runs = [RunDirectory(path) for path in paths]
    groups = _same_holdout([run.data / "holdout.txt" for run in runs])
    found = [_summary(run, group) for run, group in zip(runs, groups, strict=True)]
    newest: defaultdict[int, float] = defaultdict(lambda: math.inf)
    for run in found:
        newest[run.group] = min(newest[run.group], run.age)

    def place(run: RunSummary) -> tuple[float, int, float, float]:
        measured = math.inf if run.bits_per_byte is None else run.bits_per_byte
        return newest[run.group], run.group, measured, run.age

    return sorted(found, key=place)


def _summary(run: RunDirectory, group: int) -> RunSummary:
    config = _config(run)
    step, ending = max(run.steps(), default=0), None
    best: dict[str, Any] | None = None
    for line in read_metrics(run.metrics_file, ("evaluation", "end")):
        step = max(step, line["step"])
        ending = line.get("reason") if line["kind"] == "end" else None
        if line["kind"] == "evaluation" and line.get("is_best"):
            best = line
    state: State = "crashed" if ending is None else "finished"
    if is_held(run.path / "lock"):
        state = "running"
    elif ending == "interrupted":
        state = "stopped"
    bits = None if best is None else best.get("holdout_bits_per_byte")
    return RunSummary(
        name=run_name(run.path),
        state=state,
        step=step,
        steps=config.train.steps if config else None,
        bits_per_byte=bits if isinstance(bits, float) else None,
        best_step=None if best is None else best["step"],
        scored=None if best is None else _scored(run, best),
        parameters=config.model.n_parameters if config else None,
        size=disk_bytes([run.path])[0],
        age=max(0.0, time.time() - last_trained(run.path)),
        corpus=config.data.corpus if config else (),
        group=group,
    )


def _config(run: RunDirectory) -> RunConfig | None:
    # One that has not begun has none, and a damaged one is no reason to hide the others.
    with contextlib.suppress(MinitxError):
        return run.read_config()
    return None


def _scored(run: RunDirectory, best: dict[str, Any]) -> float | None:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, ZeroDivisionError):
        n_tokens = read_json(run.data / "corpus.json")["holdout"]["tokens"]
        return float(min(1.0, best["holdout_tokens"] / (n_tokens - 1)))
    return None


def run_name(path: Path) -> str:
    """What a command may call a run: its bare name where that is enough, else its path."""
    return path.name if path.absolute().parent == RUNS.absolute() else str(path)


def _same_holdout(texts: Sequence[Path]) -> list[int]:
    """A number for each file, the same for the same text; a missing or empty one is like no other.

    A file is read only if another one has its size, and once where they are linked.
    """
    sizes: defaultdict[int, set[int]] = defaultdict(set)
    inodes: dict[Path, int] = {}
    for text in texts:
        with contextlib.suppress(OSError):
            status = text.stat()
            if status.st_size:
                inodes[text] = status.st_ino
                sizes[status.st_size].add(status.st_ino)
    several = set().union(*(same for same in sizes.values() if len(same) > 1))
    digests: dict[int, str] = {}
    numbers: dict[object, int] = {}
    for text in texts:
        key: object = inodes.get(text, text)
        if key in several:
            with contextlib.suppress(OSError):
                key = digests[inodes[text]] = digests.get(inodes[text]) or file_digest(text)
        numbers.setdefault(text, numbers.setdefault(key, len(numbers)))
    return [numbers[text] for text in texts]


def facts(run: RunDirectory) -> dict[str, Any]:
    """One run in full: its summary, and how it went, what it has and what it was made with."""
    (summary,) = overview([run.path])
    history = read_history(read_metrics(run.metrics_file))
    config, steps = _config(run), run.steps()
    made_with: dict[str, Any] = {}
    for step in steps[-1:]:
        with contextlib.suppress(OSError, ValueError):
            made_with = read_json(run.checkpoint(step) / "made_with.json")
    return {
        **summary.to_json(),
        "path": str(run.path),
        "ending": history.ending,
        "seconds": as_plain(history.at("elapsed_seconds", history.last_step)),
        "tokens": as_plain(history.at("tokens", history.last_step)),
        "evaluations": [
            {"step": report.step, "bits_per_byte": as_plain(report.holdout_bits_per_byte)}
            for report in history.evaluations
        ],
        "events": dict(Counter(event.name for event in history.events)),
        "checkpoints": [
            {
                "name": run.checkpoint(step).name,
                "bytes": disk_bytes([run.checkpoint(step)])[0],
                "is_best": step == run.best_step(),
                "is_last": step == steps[-1],
            }
            for step in steps
        ],
        "made_with": made_with,
        "config": None if config is None else as_plain(asdict(config)),
    }


def differences(first: RunDirectory, second: RunDirectory) -> dict[str, tuple[Any, Any]]:
    """What two runs were given or planned differently: keys of `run.toml`, with both values.

    Where training was started and what was found in the texts are no settings.

    Raises:
        DamagedFileError: the config of one can't be read.
    """
    configs = [asdict(run.read_config()) for run in (first, second)]
    return {
        f"{table}.{key}": (value, configs[1][table][key])
        for table, values in configs[0].items()
        for key, value in values.items()
        if key not in _NO_SETTINGS and value != configs[1][table][key]
    }
