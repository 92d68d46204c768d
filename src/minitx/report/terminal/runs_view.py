"""What `minitx runs` shows: a table of all runs, one run in full, two side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

from rich.console import Console, RenderableType
from rich.text import Text

from minitx.report.terminal.printable import cut_label, printed_name, run_path
from minitx.report.terminal.tables import labelled, table
from minitx.report.terminal.units import bytes_, count, duration, percent
from minitx.workflows.many_runs import RunSummary

_STYLES = {"running": "green", "stopped": "yellow", "crashed": "red", "finished": ""}
_COLUMNS = ("run", "state", "step", "bits/byte", "params", "size", "age", "corpus")
_NAMES = 24
"""Columns that names and corpora need at least."""


def runs_table(runs: Sequence[RunSummary], total: int) -> Iterator[RenderableType]:
    """The table, as wide as the terminal, runs that don't compare apart; `total` bytes in all."""
    rows = [_row(run) for run in runs]
    widths = [max(len(row[column]) for row in (_COLUMNS, *rows)) for column in range(7)]
    # What is left is for names and corpora, and names are what a person types next. So columns that
    # `minitx runs show` has, too, give way to them where there is too little.
    columns = list(range(8))

    def room() -> int:
        return Console().width - sum(widths[i] for i in columns[1:-1]) - 2 * len(columns)

    for dropped in (4, 5, 6):
        if room() < _NAMES:
            columns.remove(dropped)
    left = max(_NAMES, room())
    name = min(widths[0], max(left - 10, 14))
    numbers = [at for at, i in enumerate(columns) if 2 <= i <= 6]
    shown = table([_COLUMNS[i] for i in columns], numbers=numbers, padding=(0, 1, 0, 0))
    for run, row, after in zip(runs, rows, [*runs[1:], None], strict=True):
        cells = [cut_label(row[0], name), row[1], *row[2:7], cut_label(row[7], left - name)]
        last = after is None or after.group != run.group
        styled = [Text(cells[0]), Text(cells[1], _STYLES[run.state]), *map(Text, cells[2:])]
        shown.add_row(*(styled[i] for i in columns), end_section=last)
    yield shown
    yield Text(f"{len(runs)} run{'s' if len(runs) > 1 else ''}, {bytes_(total)} on disk", "dim")
    if len({run.group for run in runs}) > 1:
        yield Text("Runs between two lines have the same holdout: only they compare", "dim")
    if not all(map(_is_whole, runs)):
        yield Text("~ was measured on a part of the holdout; minitx eval measures all", "dim")


def _row(run: RunSummary) -> list[str]:
    steps = "?" if run.steps is None else f"{run.steps:,}"
    measured = "-"
    if run.bits_per_byte is not None:
        measured = f"{'' if _is_whole(run) else '~'}{run.bits_per_byte:.4f}"
    return [
        printed_name(run.name), run.state,
        f"{run.step:,}" if run.step == run.steps else f"{run.step:,}/{steps}",
        measured, "?" if run.parameters is None else count(run.parameters),
        bytes_(run.size), short_age(run.age), printed_name(", ".join(run.corpus)) or "-",
    ]  # fmt: skip


def _is_whole(run: RunSummary) -> bool:
    return run.scored is None or run.scored > 0.995


def short_age(seconds: float) -> str:
    """A time span in its largest unit alone: ``12s``, ``3m``, ``5h``, ``9d``."""
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= size:
            return f"{seconds // size:,.0f}{unit}"
    return f"{seconds:.0f}s"


def run_facts(facts: Mapping[str, Any]) -> Iterator[RenderableType]:
    """One run in full."""
    run = RunSummary(**{field.name: facts[field.name] for field in fields(RunSummary)})
    config, made_with = facts["config"], facts["made_with"]
    yield Text(printed_name(run.name), "bold")
    steps = "an unknown number of" if run.steps is None else f"{run.steps:,}"
    ago = "" if run.state == "running" else f", {short_age(run.age)} ago"
    state = f"{run.state} at step {run.step:,} of {steps}{ago}"
    rows = [("state", state)]
    if facts["seconds"] is not None and facts["tokens"] is not None:
        took = f"{duration(facts['seconds'])} of training, {count(facts['tokens'])} tokens"
        rows.append(("took", took))
    if run.bits_per_byte is not None:
        part = "" if _is_whole(run) else f", on {percent(run.scored or 0.0)} of the holdout"
        best = f"{run.bits_per_byte:.4f} bits per byte at step {run.best_step:,}{part}"
        rows.append(("best", best))
    if config is not None:
        model, train = config["model"], config["train"]
        rows += [
            ("model", f"{model['code_file'] or model['architecture']}, "
             f"{count(run.parameters or 0)} parameters: layers {model['n_layers']}, "
             f"heads {model['n_heads']}, width {model['d_model']}, context "
             f"{model['context_length']:,}"),
            ("tokenizer", f"{config['tokenizer']['kind']}, {model['vocab_size']:,} tokens"),
            ("corpus", printed_name(", ".join(run.corpus)) or "-"),
            *([("begun with", run_path(train["start"]))] if train["start"] else []),
            ("training", f"{train['optimizer']}, batch {train['batch_size']:,}, seed "
             f"{train['seed']}, {train['dtype']}"),
        ]  # fmt: skip
    if made_with:
        rows.append(("made with", "; ".join(
            f"{key} {printed_name(str(made_with[key]))}"
            for key in ("minitx", "torch", "device", "engine") if key in made_with
        )))  # fmt: skip
    if facts["events"]:
        named = (f"{name} ({n})" if n > 1 else name for name, n in facts["events"].items())
        rows.append(("events", printed_name(", ".join(named))))
    for saved in facts["checkpoints"]:
        marks = [word for word in ("best", "last") if saved[f"is_{word}"]]
        label = "" if saved is not facts["checkpoints"][0] else "checkpoints"
        mark = f" ({', '.join(marks)})" if marks else ""
        rows.append((label, f"{saved['name']}, {bytes_(saved['bytes'])}{mark}"))
    rows.append(("on disk", bytes_(run.size)))
    yield labelled(rows)


def differences_table(
    names: Sequence[str], differences: Mapping[str, tuple[Any, Any]]
) -> RenderableType:
    """What two runs were set to differently."""
    if not differences:
        return Text("The same settings.")
    if "train.start" in differences:  # Then their weights differ, too.
        differences = {k: v for k, v in differences.items() if k != "train.start_digest"}
    room = max(12, (Console().width - max(map(len, differences)) - 6) // 2)

    def cell(value: Any) -> str:
        texts = value if isinstance(value, (list, tuple)) else [value]
        text = ", ".join("-" if value in (None, "") else str(value) for value in texts)
        return cut_label(printed_name(text) or "-", room)

    rows = [(key, *map(cell, values)) for key, values in differences.items()]
    return table(["", *(cut_label(printed_name(name), room) for name in names)], rows)
