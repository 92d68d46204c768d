"""Loss curves drawn with characters: dots of Braille cells, or plain ASCII.

A Braille character holds two by four dots, so a plot of 60 by 10 cells has 120 by 40 points.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence

from rich.text import Text

Point = tuple[float, float]

_TRAIN_STYLE = "cyan"
_HOLDOUT_STYLE = "bold yellow"
_AXIS_STYLE = "dim"

_MIN_WIDTH, _MIN_HEIGHT = 24, 6

# Bits of the dots in a Braille cell, by column and row (Unicode 15, chapter 21.1).
_DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
_BRAILLE = 0x2800


class LossSeries:
    """Losses by step in bounded memory: when full, neighbours are averaged."""

    def __init__(self, capacity: int = 1024) -> None:
        # The most points that are kept, an even number.
        self._capacity = capacity
        self._points: list[Point] = []
        self._per_point = 1
        self._pending: list[Point] = []

    def add(self, step: int, loss: float) -> None:
        """Append a point; a loss that is not a number is kept as a gap."""
        self._pending.append((step, loss))
        if len(self._pending) < self._per_point:
            return
        self._points.append(_merge(self._pending))
        self._pending = []
        if len(self._points) >= self._capacity:
            pairs = zip(self._points[::2], self._points[1::2], strict=True)
            self._points = [_merge(pair) for pair in pairs]
            self._per_point *= 2

    @property
    def points(self) -> list[Point]:
        """The points so far, in order, the newest included."""
        return [*self._points, _merge(self._pending)] if self._pending else self._points


# Beyond it a loss says no more than "not a number", and differences overflow.
_LARGEST = 1e30


def _drawable(loss: float) -> bool:
    return abs(loss) <= _LARGEST


def _finite(points: Iterable[Point]) -> list[float]:
    return [loss for _, loss in points if _drawable(loss)]


def _merge(points: Sequence[Point]) -> Point:
    """Average of some neighbours: the last one's step and the mean of the finite losses."""
    losses = _finite(points)
    return points[-1][0], math.fsum(losses) / len(losses) if losses else math.nan


def curve_lines(
    train: Sequence[Point],
    holdout: Sequence[Point],
    width: int,
    height: int,
    last_step: int = 0,
    ascii_only: bool = False,
) -> list[Text]:
    """Draw training loss as a line and holdout loss as dots, with axes, labels and a legend.

    Gives `height` lines of at most `width` columns. The few highest training losses (the very
    start, a spike) are cut off at the top and marked there with an arrow where they would squeeze
    the rest of the curve.

    Args:
        train: (step, loss) by rising step; losses that are not finite leave a gap.
        holdout: (step, loss) of the evaluations.
        width: columns, at least 24.
        height: lines, legend, axis and labels included, at least 6.
        last_step: right end of the axis if beyond the last point, so that the curve grows into
            the space it will fill.
        ascii_only: for terminals that can't show Braille.
    """
    width, height = max(width, _MIN_WIDTH), max(height, _MIN_HEIGHT)
    rows = height - 3
    right = max([last_step, 1, *(step for step, _ in (*train[-1:], *holdout[-1:]))])
    low, high = _loss_range(train, holdout)
    ticks = _ticks(low, high, max(2, rows // 2))
    label_width = max(map(len, ticks.values()))
    plot = _Plot(width - label_width - 2, rows, right, low, high, ascii_only)
    plot.draw_line(train)
    plot.draw_dots(holdout)

    label_at = {plot.row_of(tick): label for tick, label in ticks.items()}
    tee, bar = ("+", "|") if ascii_only else ("┤", "│")
    lines = [_legend(bool(holdout), width, ascii_only)]
    for row in range(rows):
        label = label_at.get(row, "")
        line = Text().append(f"{label:>{label_width}} {tee if label else bar}", _AXIS_STYLE)
        for text, style in plot.runs(row):
            line.append(text, style)
        lines.append(line)
    lines.extend(_step_axis(plot.columns, label_width + 1, right, ascii_only))
    return lines


class _Plot:
    """A grid of characters with a dot raster inside."""

    def __init__(
        self, columns: int, rows: int, right: float, low: float, high: float, ascii_only: bool
    ) -> None:
        self.columns, self.rows, self._ascii_only = columns, rows, ascii_only
        self._right, self._low, self._high = right, low, high
        self._sub_x, self._sub_y = (1, 1) if ascii_only else (2, 4)
        self._dots = [bytearray(columns) for _ in range(rows)]
        self._marks: dict[tuple[int, int], str] = {}
        self._cut: set[int] = set()

    def row_of(self, loss: float) -> int:
        return self._y(loss) // self._sub_y

    def _x(self, step: float) -> int:
        last = self.columns * self._sub_x - 1
        return min(last, max(0, round(step / self._right * last)))

    def _y(self, loss: float) -> int:
        last = self.rows * self._sub_y - 1
        part = (self._high - loss) / (self._high - self._low)
        return round(min(1.0, max(0.0, part)) * last)

    def draw_line(self, points: Sequence[Point]) -> None:
        columns: dict[int, list[Point]] = {}
        for point in points:
            columns.setdefault(self._x(point[0]), []).append(point)
        before: tuple[int, int] | None = None
        for x, in_column in columns.items():
            _, loss = _merge(in_column)
            if math.isnan(loss):
                before = None
                continue
            if loss > self._high:
                self._cut.add(x // self._sub_x)
            here = (x, self._y(loss))
            for dot_x, dot_y in _between(before or here, here):
                bit = 1 if self._ascii_only else _DOTS[dot_x % 2][dot_y % 4]
                self._dots[dot_y // self._sub_y][dot_x // self._sub_x] |= bit
            before = here

    def draw_dots(self, points: Sequence[Point]) -> None:
        for step, loss in points:
            if _drawable(loss):
                self._marks[self.row_of(loss), self._x(step) // self._sub_x] = (
                    "o" if self._ascii_only else "●"
                )

    def runs(self, row: int) -> Iterator[tuple[str, str]]:
        """Stretches of one style in a row."""
        cells = (self._cell(row, column) for column in range(self.columns))
        for style, run in itertools.groupby(cells, key=lambda cell: cell[1]):
            yield "".join(character for character, _ in run), style

    def _cell(self, row: int, column: int) -> tuple[str, str]:
        mark = self._marks.get((row, column))
        if mark:
            return mark, _HOLDOUT_STYLE
        if row == 0 and column in self._cut:
            return "^" if self._ascii_only else "↑", _TRAIN_STYLE
        dots = self._dots[row][column]
        if not dots:
            return " ", ""
        return "." if self._ascii_only else chr(_BRAILLE + dots), _TRAIN_STYLE


def _between(start: tuple[int, int], end: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """Dots of a straight line, both ends included; end is not left of start."""
    (x0, y0), (x1, y1) = start, end
    count = max(x1 - x0, abs(y1 - y0), 1)
    for i in range(count + 1):
        yield x0 + round((x1 - x0) * i / count), y0 + round((y1 - y0) * i / count)


def _loss_range(train: Sequence[Point], holdout: Sequence[Point]) -> tuple[float, float]:
    """Lowest and highest loss to show, rounded outward so that the axis rests while losses move."""
    losses = sorted(_finite(train))
    marks = _finite(holdout)
    everything = [*losses, *marks]
    if not everything:
        return 0.0, 1.0
    low, high = min(everything), max(everything)
    if len(losses) >= 20:
        # Cut only if it gives the rest of the curve a good deal more room.
        most = max([losses[int(0.96 * len(losses))], *marks])
        if high - most > 0.3 * (high - low):
            high = most
    if high - low < 1e-6 * max(1.0, abs(high)):
        margin = max(0.5, 0.1 * abs(high))
        low, high = low - margin, high + margin
    grain = _nice((high - low) / 10)
    return math.floor(low / grain) * grain, math.ceil(high / grain) * grain


def _nice(step: float) -> float:
    """Smallest of 1, 2 or 5 times a power of ten that is at least `step`."""
    power = 10.0 ** math.floor(math.log10(step))
    return power * next(factor for factor in (1, 2, 5, 10) if factor * power >= step * 0.999)


def _ticks(low: float, high: float, count: int) -> dict[float, str]:
    """About `count` round losses in the range, with their labels."""
    step = _nice((high - low) / count)
    first, last = math.ceil(low / step - 1e-6), math.floor(high / step + 1e-6)
    ticks = [step * i for i in range(first, last + 1)]
    decimals = max(0, -math.floor(math.log10(step) + 1e-6))
    is_large = max(map(abs, ticks), default=0.0) >= 1e5
    return {tick: f"{tick:.1e}" if is_large else f"{tick:.{decimals}f}" for tick in ticks}


def _legend(with_holdout: bool, width: int, ascii_only: bool) -> Text:
    line, dot = ("...", "o") if ascii_only else ("⠤⠤", "●")
    legend = Text().append(f"{line} ", _TRAIN_STYLE).append("train", _AXIS_STYLE)
    if with_holdout:
        legend.append(f"  {dot} ", _HOLDOUT_STYLE).append("holdout", _AXIS_STYLE)
    for title in ("loss by step, nats per token   ", "loss   ", ""):
        if len(title) + legend.cell_len <= width:
            break
    return Text().append(title, _AXIS_STYLE).append_text(legend)


def _step_axis(columns: int, indent: int, right: float, ascii_only: bool) -> list[Text]:
    """The axis line and the line of step numbers under it."""
    corner, line, tee = ("+", "-", "+") if ascii_only else ("└", "─", "┬")
    axis = [line] * columns
    numbers = [" "] * (indent + 1 + columns)
    step = max(1.0, _nice(right / max(1, columns // 14)))
    free = 0
    for i in range(int(right / step + 1e-6) + 1):
        column = round(i * step / right * (columns - 1))
        label = f"{round(i * step):,}"
        start = max(0, indent + 1 + column - len(label) // 2)
        start = min(start, len(numbers) - len(label))
        if start < free:
            continue
        axis[column] = tee
        numbers[start : start + len(label)] = label
        free = start + len(label) + 2
    return [
        Text(" " * indent + corner + "".join(axis), style=_AXIS_STYLE),
        Text("".join(numbers).rstrip(), style=_AXIS_STYLE),
    ]
