"""What both views of training know and show: the record of a run, and its parts as lines."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console
from rich.text import Text

from minitx.report.terminal.curve import LossSeries, Point
from minitx.report.terminal.printable import going_on, run_path, run_word, visible
from minitx.report.terminal.units import count, duration, fixed
from minitx.training.history import read_history
from minitx.training.logging.metrics_file import read_metrics
from minitx.training.observer import (
    EvaluationReport,
    Event,
    RunEnd,
    RunStart,
    StepReport,
    TrainingObserver,
    perplexity,
)

SEVERITY_STYLES = {"info": "cyan", "warning": "yellow", "error": "bold red"}


class TrainingRecord(TrainingObserver):
    """Everything told so far, in bounded memory but for the evaluations.

    Attributes:
        train: losses of the logged steps, thinned.
        evaluations: all of them; a resumed run starts with those of its `metrics.jsonl`.
        events: the newest event of each name, the most recent last, with how often it came.
    """

    def __init__(self) -> None:
        self.start: RunStart | None = None
        self.latest: StepReport | None = None
        self.train = LossSeries()
        self.evaluations: list[EvaluationReport] = []
        self.events: dict[str, tuple[Event, int]] = {}
        self.end: RunEnd | None = None

    def on_start(self, start: RunStart) -> None:
        """Remember the run; if it is resumed, read what happened before."""
        self.start = start
        if start.first_step:
            before = read_history(
                record
                for record in read_metrics(start.run / "metrics.jsonl")
                if record["step"] <= start.first_step
            )
            for step, loss in zip(before.steps.step, before.steps.columns["loss"], strict=True):
                self.train.add(int(step), float(loss))
            self.evaluations += before.evaluations

    def on_step(self, report: StepReport) -> None:
        """Add to the curve."""
        self.latest = report
        self.train.add(report.step, report.loss)

    def on_evaluation(self, report: EvaluationReport) -> None:
        """Add to the table."""
        self.evaluations.append(report)

    def on_event(self, event: Event) -> None:
        """Count it with those of the same name."""
        _, times = self.events.pop(event.name, (event, 0))
        self.events[event.name] = (event, times + 1)

    def on_end(self, end: RunEnd) -> None:
        """Remember how it ended."""
        self.end = end

    @property
    def last_step(self) -> int:
        """Right end of the step axis."""
        if self.end is not None:
            return self.end.step
        return self.latest.steps if self.latest else 0

    @property
    def holdout(self) -> list[Point]:
        """(step, holdout loss) of the evaluations."""
        return [(report.step, report.holdout_loss) for report in self.evaluations]

    @property
    def newest_sample(self) -> EvaluationReport | None:
        """The last evaluation that came with a sample."""
        return next((report for report in reversed(self.evaluations) if report.sample), None)


def title_line(start: RunStart, width: int) -> Text:
    """Name the run and, as far as they fit, what is trained where."""
    line = Text().append(run_path(start.run), "bold")
    for fact in (
        f"{count(start.n_parameters)} parameters",
        f"{start.device}, {start.dtype}",
        f"{count(start.n_train_tokens)} train tokens",
    ):
        more = f"  ·  {fact}"
        if line.cell_len + len(more) <= width:
            line.append(more, "dim")
    return line


def step_figures(record: TrainingRecord, missing: str) -> dict[str, str]:
    """The newest figures by name; those that are not there yet are written as `missing`."""
    names = ("loss", "perplexity", "holdout loss", "holdout perplexity", "tokens/s",
             "gradient norm", "learning rate", "elapsed", "left")  # fmt: skip
    figures = dict.fromkeys(names, missing)
    report = record.latest
    if report is not None:
        figures["loss"] = fixed(report.loss, 4)
        figures["perplexity"] = fixed(report.perplexity, 2)
        figures["tokens/s"] = count(report.tokens_per_second)
        figures["gradient norm"] = f"{report.gradient_norm:.3g}"
        figures["learning rate"] = f"{report.learning_rate:.2e}"
        figures["elapsed"] = duration(report.elapsed_seconds)
        figures["left"] = duration(report.seconds_left)
    if record.evaluations:
        holdout_loss = record.evaluations[-1].holdout_loss
        figures["holdout loss"] = fixed(holdout_loss, 4)
        figures["holdout perplexity"] = fixed(perplexity(holdout_loss), 2)
    return figures


def best_evaluation(evaluations: Sequence[EvaluationReport]) -> EvaluationReport | None:
    """The evaluation with the lowest holdout loss, as the training loop marked it."""
    return next((report for report in reversed(evaluations) if report.is_best), None)


EVALUATION_COLUMNS = ("step", "train loss", "holdout loss", "holdout perplexity", "bits per byte")
OLD_HOLDOUT = "old holdout loss"
"""In place of the perplexity, in a run that began with another."""
_WIDTHS = (9, *map(len, EVALUATION_COLUMNS[1:]))
EVALUATIONS_WIDTH = sum(_WIDTHS) + 2 * len(_WIDTHS) + len("* best")


def evaluation_figures(report: EvaluationReport) -> tuple[str, ...]:
    """The figures of an evaluation, in the order of `EVALUATION_COLUMNS`."""
    old = report.old_holdout_loss
    return (
        f"{report.step:,}",
        fixed(report.train_loss, 4),
        fixed(report.holdout_loss, 4),
        fixed(perplexity(report.holdout_loss), 2) if old is None else fixed(old, 4),
        fixed(report.holdout_bits_per_byte, 4),
    )


def evaluation_columns(evaluations: Sequence[EvaluationReport]) -> tuple[str, ...]:
    """What the figures are called; that of the perplexity says what stands there instead."""
    has_old = any(report.old_holdout_loss is not None for report in evaluations)
    return tuple(
        OLD_HOLDOUT if has_old and name == "holdout perplexity" else name
        for name in EVALUATION_COLUMNS
    )


def evaluation_lines(
    evaluations: Sequence[EvaluationReport], shown: Sequence[EvaluationReport], star: str = "★"
) -> list[Text]:
    """Draw the table of evaluations: a header and a line for each of `shown`."""

    def row(cells: Sequence[str]) -> str:
        return "  ".join(f"{cell:>{width}}" for cell, width in zip(cells, _WIDTHS, strict=True))

    best = best_evaluation(evaluations)
    lines = [Text(row(evaluation_columns(evaluations)), style="dim")]
    for report in shown:
        line = Text(row(evaluation_figures(report)))
        if report is best:
            line.append(f"  {star} best", "bold green")
        lines.append(line)
    return lines


def latest_evaluations(
    evaluations: Sequence[EvaluationReport], rows: int
) -> list[EvaluationReport]:
    """The newest evaluations that fit, the best among them even if it is older."""
    shown = list(evaluations[-rows:])
    best = best_evaluation(evaluations)
    if best is not None and best not in shown:
        shown[0] = best
    return shown


def spread_evaluations(
    evaluations: Sequence[EvaluationReport], rows: int
) -> list[EvaluationReport]:
    """At most so many evaluations, evenly spread, the first, best and last among them."""
    n = len(evaluations)
    if n <= rows:
        return list(evaluations)
    places = {round(i * (n - 1) / (rows - 2)) for i in range(rows - 1)}
    best = best_evaluation(evaluations)
    return [report for i, report in enumerate(evaluations) if i in places or report is best]


def sample_lines(
    report: EvaluationReport, console: Console, width: int, rows: int, compact: bool = False
) -> list[Text]:
    """Show the sample of an evaluation, prompt dimmed, wrapped and cut to so many rows.

    The heading is one of the rows; `compact` leaves out empty lines.
    """
    text = Text().append(_shown(report.sample_prompt), "dim").append(_shown(report.sample))
    lines: list[Text] = []
    for part in text.split("\n", allow_blank=True):
        lines += part.wrap(console, max(2, width - 2)) or [Text()]
    if compact:
        lines = [line for line in lines if line.plain.strip()]
    while lines and not lines[-1].plain.strip():
        lines.pop()
    if len(lines) > rows - 1:
        lines = lines[: rows - 1]
        lines[-1].truncate(width - 4)
        lines[-1].append(" …", "dim")
    heading = Text(f"sample at step {report.step:,}", style="dim")
    return [heading, *(Text("  ").append_text(line) for line in lines)]


def event_lines(
    events: Iterable[tuple[Event, int]], console: Console, width: int, rows: int
) -> list[Text]:
    """Show the most recent events that fit, oldest first, each with its fix."""
    blocks: list[list[Text]] = []
    for event, times in reversed(list(events)):
        block = _event_block(event, times, console, width)
        if sum(map(len, blocks)) + len(block) > rows and blocks:
            break
        blocks.append(block[:rows])
    return [line for block in reversed(blocks) for line in block]


def _event_block(event: Event, times: int, console: Console, width: int) -> list[Text]:
    room = max(2, width - 2)
    style = SEVERITY_STYLES.get(event.severity, "")
    often = f", the last of {times:,} times" if times > 1 else ""
    text = Text().append(f"{event.severity} {visible(event.name)} ", style)
    if event.severity == "info":
        # Nothing to act on: one quiet line.
        text = Text(style="dim")
    text.append(f"at step {event.step:,}{often}: {_shown(event.message)}".replace("\n", " "))
    lines = list(text.wrap(console, room))
    for heading, words in (("likely cause: ", event.cause), ("try: ", event.fix)):
        if words:
            part = Text().append(heading, "bold").append(_shown(going_on(words)).replace("\n", " "))
            lines += part.wrap(console, room)
    return [lines[0], *(Text("  ").append_text(line) for line in lines[1:])]


def _shown(text: str) -> str:
    """The text without control sequences, its line breaks kept."""
    return visible(text.replace("\r\n", "\n").expandtabs(4))


_ENDINGS = {
    "early-stopping": "stopped early, because the holdout loss no longer fell,",
    "interrupted": "interrupted and saved",
}


def summary_lines(end: RunEnd, n_holdout: int = 0) -> list[str]:
    """Say how the run ended, and where only a part of the holdout's tokens was scored."""
    ending = _ENDINGS.get(end.reason, end.reason)
    lines = [
        f"{ending} at step {end.step:,}",
        f"training time      {duration(end.elapsed_seconds)}, {count(end.tokens)} tokens",
    ]
    last, best = end.final_holdout_tokens, end.best_holdout_tokens or 0
    for name, loss, n_tokens, when in (
        ("last", end.final_holdout_loss, last, ""),
        ("best", end.best_holdout_loss, best, f", at step {end.best_step:,}"),
    ):
        if not math.isfinite(loss):
            continue
        scored = ""
        # All but the first token can be scored, which has no context.
        if 0 < n_tokens < n_holdout - 1:
            scored = f", on {count(n_tokens)} of {count(n_holdout)} tokens"
        elif 0 < best != last:
            # Losses over other tokens don't compare, so that each says which.
            scored = f", on all {count(n_tokens)} tokens"
        shown = f"{fixed(loss, 4)}, perplexity {fixed(perplexity(loss), 2)}"
        lines.append(f"{name} holdout loss  {shown}{scored}{when}")
    return lines


def closing_lines(record: TrainingRecord) -> list[Text]:
    """The summary of a run that has ended, and what to run next."""
    start, end = record.start, record.end
    if end is None:
        return []
    first, *others = summary_lines(end, start.n_holdout_tokens if start else 0)
    lines = [Text(first, style="bold"), *map(Text, others)]
    if start is not None:
        sample = record.newest_sample
        prompt = sample.sample_prompt if sample and start.prompt is None else start.prompt or ""
        commands = next_steps(
            start.run,
            prompt,
            2 * end.step,
            end.reason == "interrupted",
            has_prompt=start.prompt != "",
            chats=start.chats,
            has_holdout=start.n_holdout_tokens > 1,
            has_unknown=start.n_unknown_tokens > 0,
            vocab_size=start.config.model.vocab_size,
        )
        lines += [Text(), Text("next", style="bold")]
        lines += [Text(f"  {command}", style="cyan") for command in commands]
    return lines


_LONGEST_PROMPT = 24


def next_steps(
    run_dir: Path,
    prompt: str = "",
    steps: int | None = None,
    interrupted: bool = False,
    *,
    has_prompt: bool = True,
    chats: bool = False,
    has_holdout: bool = True,
    has_unknown: bool = False,
    vocab_size: int | None = None,
) -> list[str]:
    """Command lines that go on from a run; one that was interrupted is finished first.

    Only those that work with it are given. The first words of `prompt` are used, a text that the
    run's tokenizer knows; `steps` are those to offer for `resume`, None writes ``N``.
    """
    run, start = run_word(run_dir), _quoted(_short(prompt))
    replaced = " --unknown replace" if has_unknown else ""
    cut = " --top-k 40" if vocab_size is None or vocab_size > 40 else ""
    commands = {
        f"minitx chat {run}": chats,
        f"minitx generate {run} --prompt {start}{cut}": has_prompt and not chats,
        f"minitx eval {run} --holdout{replaced}": has_holdout,
        f"minitx attn {run} --prompt {start}": has_prompt,
        f"minitx report {run}": find_spec("uplot") is not None,
    }
    working = [command for command, works in commands.items() if works]
    if interrupted:
        return [f"minitx resume {run}", *working]
    return [*working, f"minitx resume {run} --steps {steps or 'N'}"]


def _quoted(text: str) -> str:
    """A text as a word of a command line: in double quotes if it has a single one and they do."""
    in_double_quotes = "'" in text and not set(text) & set('"$`\\!')
    return f'"{text}"' if in_double_quotes else shlex.quote(text)


def _short(prompt: str) -> str:
    line = next((line.strip() for line in prompt.splitlines() if line.strip()), "")
    if not line or not line.isprintable():
        return "The"
    if len(line) <= _LONGEST_PROMPT:
        return line
    # Never within a word, which a word tokenizer might not know then.
    return line[: _LONGEST_PROMPT + 1].rpartition(" ")[0].strip() or line.split()[0]
