"""Observers that write a run down: `metrics.jsonl` always, TensorBoard if asked for.

`metrics.jsonl` holds one JSON object a line, in the order in which things happened:

| kind         | keys beside `kind` and `step`                                                    |
| ------------ | -------------------------------------------------------------------------------- |
| `step`       | `loss perplexity gradient_norm learning_rate tokens timing`                      |
| `evaluation` | `train_loss holdout_loss holdout_perplexity holdout_bits_per_byte is_best`       |
|              | `sample_prompt sample`                                                           |
| `health`     | `gradient_norms update_ratios`, each an object by layer; at some of the steps    |
| `probe`      | `attention_entropy` (a list of heads for each layer) `uniform_entropy`           |
|              | `attention_score` (by layer) `output_logit` `dead_activations` (by layer)        |
|              | `leaks`; with each evaluation                                                    |
| `event`      | `name severity message cause fix`                                                |
| `end`        | `reason best_step best_holdout_loss final_holdout_loss final_holdout_tokens`     |
|              | `tokens timing`                                                                  |

What the clock decides stands under `timing` (`tokens_per_second`, `elapsed_seconds`); all else
follows from the seed. Floats are written in full, so that they are read back to the bit. JSON has
no word for a number that is none: such a value is the text ``"NaN"``, ``"Infinity"`` or
``"-Infinity"``, which Python's `float` reads.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from minitx.errors import BadInputError
from minitx.files import write_atomically
from minitx.training.observer import (
    EvaluationReport,
    Event,
    HealthReport,
    ProbeReport,
    RunEnd,
    StepReport,
    TrainingObserver,
)
from minitx.training.perplexity import perplexity

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class MetricsFile(TrainingObserver):
    """Appends to `metrics.jsonl`.

    Every line reaches the operating system in one write before the call returns, so a killed run
    has at most its last line torn. An existing file is first cut back to what `first_step` keeps:
    `repair_metrics`.

    Args:
        path: the file; its directory exists.
        first_step: steps already done, 0 for a new run.

    Raises:
        BadInputError: if the file can't be opened or, later, written.
    """

    def __init__(self, path: Path, first_step: int = 0) -> None:
        self._path = path
        self._file: int | None = None
        try:
            repair_metrics(path, first_step)
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        except OSError as error:
            self._fail(error)

    def on_step(self, report: StepReport) -> None:
        """Write a `step` line."""
        self._write(
            {
                "kind": "step",
                "step": report.step,
                "loss": report.loss,
                "perplexity": perplexity(report.loss),
                "gradient_norm": report.gradient_norm,
                "learning_rate": report.learning_rate,
                "tokens": report.tokens,
                "timing": {
                    "tokens_per_second": report.tokens_per_second,
                    "elapsed_seconds": report.elapsed_seconds,
                },
            }
        )

    def on_evaluation(self, report: EvaluationReport) -> None:
        """Write an `evaluation` line."""
        self._write(
            {
                "kind": "evaluation",
                "step": report.step,
                "train_loss": report.train_loss,
                "holdout_loss": report.holdout_loss,
                "holdout_perplexity": perplexity(report.holdout_loss),
                "holdout_bits_per_byte": report.holdout_bits_per_byte,
                "is_best": report.is_best,
                "sample_prompt": report.sample_prompt,
                "sample": report.sample,
            }
        )

    def on_health(self, report: HealthReport) -> None:
        """Write a `health` line."""
        self._write({"kind": "health", **asdict(report)})

    def on_probe(self, report: ProbeReport) -> None:
        """Write a `probe` line."""
        self._write({"kind": "probe", **asdict(report)})

    def on_checkpoint(self, step: int, directory: Path) -> None:
        """Put what was written on disk, so that the lines last as long as the checkpoint."""
        self._sync()

    def on_event(self, event: Event) -> None:
        """Write an `event` line."""
        self._write(
            {
                "kind": "event",
                "step": event.step,
                "name": event.name,
                "severity": event.severity,
                "message": event.message,
                "cause": event.cause,
                "fix": event.fix,
            }
        )

    def on_end(self, end: RunEnd) -> None:
        """Write the `end` line."""
        self._write(
            {
                "kind": "end",
                "step": end.step,
                "reason": end.reason,
                "best_step": end.best_step,
                "best_holdout_loss": end.best_holdout_loss,
                "final_holdout_loss": end.final_holdout_loss,
                "final_holdout_tokens": end.final_holdout_tokens,
                "tokens": end.tokens,
                "timing": {"elapsed_seconds": end.elapsed_seconds},
            }
        )

    def close(self) -> None:
        """Put the file on disk and close it."""
        if self._file is None:
            return
        try:
            self._sync()
        finally:
            os.close(self._file)
            self._file = None

    def _write(self, record: dict[str, Any]) -> None:
        line = memoryview(metrics_line(record))
        if self._file is None:
            raise ValueError(f"{self._path} is closed")
        try:
            while line:
                line = line[os.write(self._file, line) :]
        except OSError as error:
            self._fail(error)

    def _sync(self) -> None:
        # A pipe or /dev/null has nothing to put on disk.
        with contextlib.suppress(OSError):
            if self._file is not None:
                os.fsync(self._file)

    def _fail(self, error: OSError) -> NoReturn:
        raise BadInputError(
            f"{self._path} can't be written: {error.strerror or error}",
            "Free some space or choose another run directory, then resume the run",
        ) from error


def metrics_line(record: dict[str, Any]) -> bytes:
    """Write one record as a line of `metrics.jsonl`, newline included."""
    text = json.dumps(_plain(record), ensure_ascii=False, allow_nan=False)
    # A lone surrogate, which UTF-8 can't hold, becomes its escape in JSON.
    return text.encode("utf-8", "backslashreplace") + b"\n"


def read_metrics(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the records of a `metrics.jsonl`; what can't be read (a torn line) is left out.

    Raises:
        OSError: if the file can't be opened.
    """
    with path.open("rb") as file:
        for line in file:
            record = _parse(line)
            if record is not None:
                yield record


def repair_metrics(path: Path, step: int) -> int:
    """Cut a metrics file back to a run that has done `step` steps; return the lines dropped.

    Dropped are lines that can't be read (the torn last line of a killed run), lines of later
    steps, and `end` lines, since the run goes on. Kept lines stay as they are, byte for byte; a
    complete last line that lacks its newline gets one. If anything changes, a new file replaces
    the old in one rename, after it is on disk. A missing file is left missing.

    Raises:
        OSError: if the file can't be read or replaced.
    """
    if not path.exists():
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
    with path.open("rb") as file:
        for line in file:
            record = _parse(line)
            is_kept = record is not None and record["step"] <= step and record["kind"] != "end"
            yield line.rstrip(b"\n") + b"\n" if is_kept else b""


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or not isinstance(record.get("kind"), str):
        return None
    step = record.get("step")
    return record if isinstance(step, int) and not isinstance(step, bool) else None


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        if math.isnan(value):
            return "NaN"
        if math.isinf(value):
            return "Infinity" if value > 0 else "-Infinity"
        return float(value)
    return value


class TensorBoardLogger(TrainingObserver):
    """Writes the same figures as TensorBoard event files.

    Args:
        directory: where the event files go.
        first_step: steps already done; what an earlier session wrote past it is hidden.

    Raises:
        BadInputError: if tensorboard is not installed.
    """

    def __init__(self, directory: Path, first_step: int = 0) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise BadInputError(
                "TensorBoard files need the package tensorboard, which is not installed",
                'Install it with: pip install "minitx[tensorboard]"',
            ) from error
        self._writer: SummaryWriter = SummaryWriter(
            str(directory), purge_step=first_step + 1 if first_step else None
        )

    def on_step(self, report: StepReport) -> None:
        """Write the step's figures."""
        self._scalars(
            report.step,
            {
                "train/loss": report.loss,
                "train/perplexity": perplexity(report.loss),
                "train/gradient_norm": report.gradient_norm,
                "train/learning_rate": report.learning_rate,
                "timing/tokens_per_second": report.tokens_per_second,
            },
        )

    def on_evaluation(self, report: EvaluationReport) -> None:
        """Write the holdout's figures and the sample."""
        self._scalars(
            report.step,
            {
                "holdout/loss": report.holdout_loss,
                "holdout/perplexity": perplexity(report.holdout_loss),
                "holdout/bits_per_byte": report.holdout_bits_per_byte,
            },
        )
        if report.sample:
            # Indented by four, Markdown shows a text as it is.
            text = (report.sample_prompt + report.sample).replace("\n", "\n    ")
            self._writer.add_text("sample", "    " + text, report.step)

    def on_health(self, report: HealthReport) -> None:
        """Write each layer's figures."""
        for name, by_layer in (
            ("gradient_norm", report.gradient_norms),
            ("update_ratio", report.update_ratios),
        ):
            figures = {f"health/{name}/{layer}": value for layer, value in by_layer.items()}
            self._scalars(report.step, figures)

    def on_probe(self, report: ProbeReport) -> None:
        """Write each layer's figures, entropies as the mean of a layer's heads."""
        self._scalars(report.step, {"probe/output_logit": report.output_logit})
        for layer, heads in enumerate(report.attention_entropy):
            self._scalars(
                report.step,
                {
                    f"probe/attention_entropy/{layer}": sum(heads) / len(heads),
                    f"probe/attention_score/{layer}": report.attention_score[layer],
                    f"probe/dead_activations/{layer}": report.dead_activations[layer],
                },
            )

    def on_event(self, event: Event) -> None:
        """Write the event as a text."""
        parts = (f"{event.severity}: {event.message}", event.cause, event.fix)
        text = ". ".join(part for part in parts if part)
        self._writer.add_text(f"event/{event.name}", text, event.step)

    def close(self) -> None:
        """Write what is queued and close the file."""
        self._writer.close()

    def _scalars(self, step: int, figures: dict[str, float]) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)
