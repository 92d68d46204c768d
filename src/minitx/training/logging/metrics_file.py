"""`metrics.jsonl`: written in every run, read by whoever looks back, repaired where one is resumed.

It holds one JSON object a line, in the order in which things happened: `docs/files.md` lists the
kinds and their keys, `logged` of an event in `minitx.training.observer` decides them.

What the clock decides stands under `timing` (`tokens_per_second`, `elapsed_seconds`); all else
follows from the seed. Floats are written in full, so that they are read back to the bit. JSON has
no word for NaN and infinity: such a value is the text ``"NaN"``, ``"Infinity"`` or
``"-Infinity"``, which Python's `float` reads.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, NoReturn

from minitx.errors import BadInputError
from minitx.files import describe_damage, open_plain_file, write_atomically
from minitx.training.logging import LOGGERS
from minitx.training.observer import TrainingEvent, TrainingObserver

_MOST_DIGITS = 18
_log = logging.getLogger("minitx")


class MetricsFile(TrainingObserver):
    """Appends to `metrics.jsonl`.

    Every line reaches the operating system in one write before the call returns, so a killed run
    has at most its last line torn. An existing file is first cut back: see `repair_metrics`.

    Raises:
        BadInputError: if the file can't be opened or, later, written.
    """

    def __init__(self, path: Path, first_step: int = 0) -> None:
        self._path = path
        try:
            repair_metrics(path, first_step)
            self._file = path.open("ab", buffering=0)
        except (OSError, ValueError) as error:
            self._fail(error)

    def observe(self, event: TrainingEvent) -> None:
        """Write the event's line; `write_checkpoint` puts on disk those that come before it."""
        if event.is_logged:
            self.write(event.to_line())

    def write(self, record: dict[str, Any]) -> None:
        """Write a record, which has a `kind` and a `step`."""
        line = memoryview(metrics_line(record))
        try:
            while line:
                line = line[self._file.write(line) :]
        except OSError as error:
            self._fail(error)

    def close(self) -> None:
        """Put the file on disk and close it."""
        if not self._file.closed:
            # A pipe or /dev/null has nothing to put on disk.
            with self._file, contextlib.suppress(OSError):
                os.fsync(self._file.fileno())

    def _fail(self, error: OSError | ValueError) -> NoReturn:
        raise BadInputError(
            f"{self._path} can't be written: {describe_damage(error)}",
            "Free some space or choose another run directory, then resume the run",
        ) from error


@LOGGERS.register("metrics")
def metrics_of_run(run: Path, first_step: int) -> MetricsFile:
    """The logger of each run."""
    return MetricsFile(run / "metrics.jsonl", first_step)


def metrics_line(record: dict[str, Any]) -> bytes:
    """Write one record as a line of `metrics.jsonl`, newline included."""
    text = json.dumps(_plain(record), ensure_ascii=False, allow_nan=False)
    # A lone surrogate, which UTF-8 can't hold, becomes its escape in JSON.
    return text.encode("utf-8", "backslashreplace") + b"\n"


def read_metrics(path: Path, kinds: Collection[str] = ()) -> Iterator[dict[str, Any]]:
    """Yield the records of a `metrics.jsonl` but for lines that can't be read, like a torn one.

    Of some `kinds` alone if any are named, and the very last one; what else there is isn't parsed.
    A missing file has none. Neither has one that can't be read; that is warned of.
    """
    beginnings = tuple(f'{{"kind": "{kind}"'.encode() for kind in kinds) or (b"",)
    try:
        with open_plain_file(path) as file:
            line = b""
            for line in file:
                if line.startswith(beginnings) and (record := _parse(line)):
                    yield record
            if not line.startswith(beginnings) and (record := _parse(line)):
                yield record
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        _log.warning("warning: %s can't be read: %s", path, describe_damage(error))


def require_metrics(path: Path) -> None:
    """Refuse a metrics file that can't be continued, before anything of the run is changed.

    Raises:
        BadInputError: it is there, and is no plain file that this user may read and write.
    """
    if os.path.lexists(path) and not (path.is_file() and os.access(path, os.R_OK | os.W_OK)):
        raise BadInputError(
            f"{path} is not a plain file that can be read and written",
            "Restore it, or move it away: the run goes on without it",
        )


def repair_metrics(path: Path, step: int) -> int:
    """Cut a metrics file back to a run that has done `step` steps; return the lines dropped.

    Dropped are lines that can't be read (the torn last line of a killed run), lines of later
    steps, and `end` lines, since the run goes on. Kept lines stay as they are, byte for byte; a
    complete last line that lacks its newline gets one. A missing file is left missing.

    Raises:
        OSError: if the file can't be read or replaced.
        ValueError: it is no plain file.
    """
    if not os.path.lexists(path):
        return 0
    dropped = size = 0
    for line in _kept_lines(path, step):
        dropped += not line
        size += len(line)
    if dropped or size != path.stat().st_size:
        write_atomically(path, _kept_lines(path, step))
    return dropped


def _kept_lines(path: Path, step: int) -> Iterator[bytes]:
    """The lines of a run that has done `step` steps, each whole; empty for one that is dropped."""
    with open_plain_file(path) as file:
        for line in file:
            record = _parse(line)
            is_kept = record is not None and record["step"] <= step and record["kind"] != "end"
            yield line.rstrip(b"\n") + b"\n" if is_kept else b""


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line, parse_int=_count)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or not isinstance(record.get("kind"), str):
        return None
    step = record.get("step")
    return record if type(step) is int and step >= 0 else None


def _count(digits: str) -> int:
    # No column of figures holds larger ones, and no run gets there.
    if len(digits) > _MOST_DIGITS:
        raise ValueError(f"a number of {len(digits):,} digits")
    return int(digits)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        # Without `allow_nan=False`, Python writes the words "NaN", "Infinity" and "-Infinity".
        return float(value) if math.isfinite(value) else json.dumps(value)
    return value
