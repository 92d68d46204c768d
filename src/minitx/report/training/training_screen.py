"""The live screen of training, laid out for the size of the terminal.

The screen is a list of lines of which each part has a fixed number, so that nothing moves while
figures change.
"""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from minitx.report.terminal.curve import curve_lines
from minitx.report.training.training_report import (
    EVALUATIONS_WIDTH,
    TrainingRecord,
    evaluation_lines,
    event_lines,
    latest_evaluations,
    sample_lines,
    spread_evaluations,
    step_figures,
    title_line,
)

_GAP = 3
_SIDE_BY_SIDE = EVALUATIONS_WIDTH + _GAP + 56
_TALLEST_STACK, _TALLEST_SIDES = 44, 34
_WIDEST_CURVE = 140
_SMALLEST_CURVE = 6
_TITLE_FROM = 26


def training_screen(record: TrainingRecord, console: Console) -> tuple[list[Text], int]:
    """The lines for the console's present size, and the index of the one kept for the phase."""
    if record.start is None:
        return [Text()], 0
    width, height = console.size
    wide = width >= _SIDE_BY_SIDE
    height = min(height - 1, _TALLEST_SIDES if wide else _TALLEST_STACK)
    head = [title_line(record.start, width)] if wide or height >= _TITLE_FROM else []
    head.append(progress_line(record, width))
    phase_line = len(head)
    head.append(Text())
    head.extend(_figures_in_a_row(record) if wide else _figures_in_a_grid(record, width))
    head.append(Text())
    events = event_lines(record.events.values(), console, width, max(2, height // 7))
    body = height - len(head) - len(events) - (1 if events else 0)
    lines = head + (_sides if wide else _stack)(record, console, width, max(0, body))
    if events:
        lines.extend([Text(), *events])
    lines = lines[: max(1, height)]
    for line in lines:
        line.truncate(width)
    return lines, min(phase_line, len(lines) - 1)


def final_lines(record: TrainingRecord, console: Console, with_sample: bool = True) -> list[Text]:
    """What stays after the end: the curve, the evaluations, the last sample, the events."""
    width, height = console.size
    ascii_only = console.options.ascii_only
    star = "*" if ascii_only else "★"
    shown = spread_evaluations(record.evaluations, 20)
    rows = min(18, max(10, height // 3))
    lines = _curve(record, min(width, _WIDEST_CURVE), rows, ascii_only)
    if shown:
        lines += [Text(), *evaluation_lines(record.evaluations, shown, star)]
    if len(shown) < len(record.evaluations):
        note = f"{len(shown)} of {len(record.evaluations)} evaluations; metrics.jsonl has all"
        lines.append(Text(note, style="dim"))
    sample = record.newest_sample
    if sample is not None and with_sample:
        lines += [Text(), *sample_lines(sample, console, min(width, 100), 16)]
    if record.events:
        lines += [Text(), *event_lines(record.events.values(), console, width, 24)]
    return lines


def progress_line(record: TrainingRecord, width: int) -> Text:
    """Draw ``step 120/2,000 ━━━──────  6%`` over the whole width."""
    if record.latest is not None:
        done, steps = record.latest.step, record.latest.steps
    elif record.start is not None:
        done, steps = record.start.first_step, record.start.config.train.steps
    else:
        return Text()
    total = f"{steps:,}"
    part = min(1.0, done / max(1, steps))
    front, back = f"step {done:>{len(total)},}/{total} ", f" {part:>4.0%}"
    room = max(0, width - len(front) - len(back))
    filled = int(part * room)
    line = Text().append(front[:5], "dim").append(front[5:], "bold")
    return line.append("━" * filled, "cyan").append("─" * (room - filled), "dim").append(back)


def _figures_in_a_row(record: TrainingRecord) -> list[Text]:
    """Names over values, for wide terminals."""
    names, values = Text(style="dim"), Text(style="bold")
    for name, value in step_figures(record, "–").items():
        width = max(len(name), 8)
        names.append(f"{name:>{width}}   ")
        values.append(f"{value:>{width}}   ")
    return [names, values]


_GRID_WIDTH = 66
_GRID = (
    ("loss", "holdout loss", "tokens/s"),
    ("perplexity", "holdout perplexity", "elapsed"),
    ("gradient norm", "learning rate", "left"),
)


def _figures_in_a_grid(record: TrainingRecord, width: int) -> list[Text]:
    """Three by three, each name before its value."""
    gap = min(4, max(1, (width - _GRID_WIDTH) // 2))
    values = step_figures(record, "–")
    name_widths = [max(map(len, column)) for column in zip(*_GRID, strict=True)]
    lines = []
    for row in _GRID:
        line = Text()
        for name, name_width in zip(row, name_widths, strict=True):
            line.append(f"{name:<{name_width}}", "dim").append(f"{values[name]:>9}", "bold")
            line.append(" " * gap)
        lines.append(line)
    return lines


def _curve(record: TrainingRecord, width: int, rows: int, ascii_only: bool = False) -> list[Text]:
    return curve_lines(
        record.train.points, record.holdout, width, rows, record.last_step, ascii_only
    )


def _table(record: TrainingRecord, rows: int) -> list[Text]:
    """The evaluations in exactly `rows` lines, the header included."""
    shown = latest_evaluations(record.evaluations, rows - 1)
    lines = evaluation_lines(record.evaluations, shown)
    if not shown and record.start is not None:
        first = record.start.config.train.evaluate_every
        lines.append(Text(f"    none yet; one every {first:,} steps", style="dim"))
    return _filled(lines, rows)


def _sample(record: TrainingRecord, console: Console, width: int, rows: int) -> list[Text]:
    report = record.newest_sample
    lines = sample_lines(report, console, width, rows, compact=rows < 10) if report else []
    return _filled(lines, rows)


def _filled(lines: list[Text], rows: int) -> list[Text]:
    return (lines + [Text() for _ in range(rows - len(lines))])[:rows]


def _stack(record: TrainingRecord, console: Console, width: int, rows: int) -> list[Text]:
    """Curve over evaluations over sample; what does not fit is left out, the sample first."""
    table = min(12, rows // 5 + 1)
    sample = min(12, rows // 5 + 1) if record.newest_sample else 0
    gaps = 2 if rows >= 24 else 1
    if sample == 0 or rows - table - sample - gaps < _SMALLEST_CURVE:
        sample, gaps = 0, 1
    if rows - table - gaps < _SMALLEST_CURVE or table < 3:
        table, gaps = 0, 0
    curve = rows - table - sample - gaps
    lines: list[Text] = []
    if curve >= _SMALLEST_CURVE:
        lines += _curve(record, width, curve)
    if table:
        lines += [Text(), *_table(record, table)]
    if sample:
        lines += ([Text()] if gaps == 2 else []) + _sample(record, console, width, sample)
    return _filled(lines, rows)


def _sides(record: TrainingRecord, console: Console, width: int, rows: int) -> list[Text]:
    """Curve on the left; evaluations over sample on the right."""
    left_width = min(_WIDEST_CURVE, width - EVALUATIONS_WIDTH - _GAP)
    if rows < _SMALLEST_CURVE:
        return _filled([], rows)
    table = max(3, rows // 2)
    right = _table(record, table)
    if rows - table >= 4:
        right += [Text(), *_sample(record, console, EVALUATIONS_WIDTH, rows - table - 1)]
    lines = []
    curve = _curve(record, left_width, rows)
    for left, beside in zip(curve, _filled(right, rows), strict=True):
        left.pad_right(left_width + _GAP - left.cell_len)
        lines.append(left.append_text(beside))
    return lines
