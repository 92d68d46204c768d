"""An attention map drawn with characters: rows look, columns are looked at.

Colour terminals get blocks of background colour; everything else gets shading characters, Unicode
or plain ASCII. Every map says its scale. A map that is wider than the terminal shows its last
tokens, with all earlier ones added up in one column, so that rows still sum to 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from minitx.evaluation.arrays import Float32Array
from minitx.report.terminal.printable import cut_label, pad_label, token_label, vertical_label

Shading = Literal["color", "blocks", "ascii"]
Quantity = Literal["weight", "norm"]

# From these parts of the scale's top on, a cell gets the next darker character.
_FROM = (0.02, 0.1, 0.3, 0.6)
_CHARACTERS = {"blocks": "·░▒▓█", "ascii": ".-+#@"}

# Colours of the scale, from nothing to the top, in equal steps of the square root: dark blue over
# teal to pale yellow. No part of red, green and blue ever falls, so that each is lighter than the
# last for the colour-blind too, and in the nearest of 256 colours.
_STOPS = ((24, 27, 43), (40, 62, 117), (40, 117, 138), (76, 175, 138), (193, 220, 138),
          (255, 246, 190))  # fmt: skip

_MAX_LABEL = 12
_MIN_CELL, _MAX_CELL, _NUMBER_CELL = 2, 7, 4
_MAX_LABEL_HEIGHT = 8


def shading_for(console: Console) -> Shading:
    """The best shading that a console can show: colours from 256 on, else characters."""
    if console.options.ascii_only or console.legacy_windows:
        return "ascii"
    if console.color_system in ("truecolor", "256") and not console.no_color:
        return "color"
    return "blocks"


@dataclass(frozen=True)
class Scale:
    """What a shade stands for: a part of `top`, growing with the square root of the value."""

    top: float
    quantity: Quantity = "weight"

    def part(self, value: float) -> float:
        """Place on the scale, 0 to 1."""
        return min(1.0, max(0.0, value / self.top)) if self.top > 0 else 0.0

    def character(self, value: float, shading: Shading) -> str:
        """Shading character of a value."""
        return _CHARACTERS[shading][sum(self.part(value) >= start for start in _FROM)]

    def color(self, value: float) -> str:
        """Background colour of a value, as #rrggbb."""
        place = self.part(value) ** 0.5 * (len(_STOPS) - 1)
        low = min(int(place), len(_STOPS) - 2)
        mixed = (
            round(a + (b - a) * (place - low))
            for a, b in zip(_STOPS[low], _STOPS[low + 1], strict=True)
        )
        return "#" + "".join(f"{part:02x}" for part in mixed)

    def ink(self, value: float) -> str:
        """Colour of a number written on `color(value)`."""
        return "#101218" if self.part(value) ** 0.5 > 0.5 else "#c9cede"

    def style(self, value: float) -> str:
        """Both colours, as rich takes them."""
        return f"{self.ink(value)} on {self.color(value)}"

    def css(self, value: float) -> str:
        """Both colours, as a page takes them."""
        return f"background:{self.color(value)};color:{self.ink(value)}"

    def number(self, value: float) -> str:
        """A value in few characters: whole percent of a weight, or a norm."""
        if self.quantity == "weight":
            return f"{100 * value:.0f}" if value >= 0.005 else ""
        return f"{value:.1f}"[:4] if value >= 0.05 else ""

    def legend(self, shading: Shading) -> Text:
        """One line that tells what the shades mean."""
        legend = Text("scale  ", style="dim")
        unit = " %" if self.quantity == "weight" else ""
        if shading == "color":
            steps = 20
            legend.append("0 ", "dim")
            for i in range(steps):
                value = self.top * ((i + 0.5) / steps) ** 2
                legend.append(" ", f"on {self.color(value)}")
            legend.append(f" {self._number(1.0)}{unit} ", "dim")
            return legend.append(f"(middle: {self._number(0.25)}{unit})", "dim")
        bounds = [self._number(part) for part in _FROM]
        ranges = [f"under {bounds[0]}"]
        ranges += [f"{low} to {high}" for low, high in zip(bounds, bounds[1:], strict=False)]
        ranges.append(f"over {bounds[-1]}{unit}")
        for character, amounts in zip(_CHARACTERS[shading], ranges, strict=True):
            legend.append(character * 2).append(f" {amounts}  ", "dim")
        legend.rstrip()
        return legend

    def _number(self, part: float) -> str:
        """A part of the top: in percent for weights, else as it is."""
        if self.quantity == "weight":
            return f"{100 * part * self.top:.3g}"
        return f"{part * self.top:.2g}"


@dataclass(frozen=True, eq=False)
class Heatmap:
    """One square map, laid out for whatever console prints it.

    Attributes:
        values: (seq, seq) lower-triangular weights or norms; row i is where token i looks.
        quantity: `weight` (shares of attention, rows sum to 1) or `norm` (any length).
        shading: None takes the best that the console can show.
    """

    values: Float32Array
    tokens: Sequence[str]
    quantity: Quantity = "weight"
    shading: Shading | None = None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from self.lines(self.shading or shading_for(console), options.max_width)

    def lines(self, shading: Shading, width: int) -> list[Text]:
        """The map, its column labels above and the scale below, at most `width` columns wide."""
        layout = _Layout(self.tokens, width, shading, sums=self.quantity == "weight")
        scale = self.scale
        body = list(layout.column_labels())
        for position in range(layout.first, len(self.tokens)):
            line = layout.row_label(position)
            row = self.values[position]
            if layout.with_earlier:
                earlier = float(row[: layout.first].sum())
                line.append_text(_cell(scale, shading, earlier, layout.cell)).append(" ")
            for key in range(layout.first, position + 1):
                line.append_text(_cell(scale, shading, float(row[key]), layout.cell))
            body.append(line)
        return [*body, Text(), scale.legend(shading), *layout.notes(width)]

    @property
    def scale(self) -> Scale:
        """Of weights up to 1, of norms up to the largest."""
        top = 1.0 if self.quantity == "weight" else float(self.values.max(initial=0.0)) or 1.0
        return Scale(top, self.quantity)


class _Layout:
    """Which tokens are shown, and how wide everything is."""

    def __init__(self, tokens: Sequence[str], width: int, shading: Shading, sums: bool) -> None:
        self.ascii_only = shading == "ascii"
        self.earlier_mark = "<" if self.ascii_only else "…"
        self.labels = [token_label(token, self.ascii_only) for token in tokens]
        count = len(self.labels)
        self.index_width = len(str(count - 1))

        def shape(first: int) -> tuple[int, int]:
            """Width of the row labels, and columns left for cells, when starting at `first`."""
            longest = min(_MAX_LABEL, max(map(cell_len, self.labels[first:])))
            return longest, width - self.index_width - longest - 2

        self.first, self.with_earlier = 0, False
        self.label_width, room = shape(0)
        if room // count < _MIN_CELL:
            self.with_earlier = sums
            extra = _MIN_CELL + 1 if sums else 0
            self.first = max(0, count - max(1, (room - extra) // _MIN_CELL))
            self.label_width, room = shape(self.first)
            room -= extra
        self.cell = max(_MIN_CELL, min(_MAX_CELL, room // (count - self.first)))

    def row_label(self, position: int) -> Text:
        label = cut_label(self.labels[position], self.label_width, self.ascii_only)
        line = Text().append(f"{position:>{self.index_width}} ", "dim")
        return line.append(pad_label(label, self.label_width) + " ")

    def column_labels(self) -> Iterable[Text]:
        shown = self.labels[self.first :]
        indent = " " * (self.index_width + self.label_width + 2)
        longest = max(map(cell_len, shown))
        if self.with_earlier:
            indent += f"{self.earlier_mark:^{self.cell}} "
        if longest <= self.cell - 1 or self.cell >= _MAX_CELL:
            names = [cut_label(label, self.cell - 1, self.ascii_only) for label in shown]
            # Over a number at the cell's right edge, a label at the right edge reads best.
            labels = "".join(pad_label(f"{name} ", self.cell, right=True) for name in names)
            yield Text((indent + labels).rstrip())
            return
        height = min(_MAX_LABEL_HEIGHT, max(len(vertical_label(label, 999)) for label in shown))
        columns = [vertical_label(label, height, self.ascii_only) for label in shown]
        for line in range(height):
            # Short labels rest on the map.
            cells = [([""] * (height - len(column)) + column)[line] for column in columns]
            margin = " " * ((self.cell - 1) // 2)
            text = "".join(pad_label(margin + cell, self.cell) for cell in cells)
            last = line == height - 1
            yield Text((indent if last else " " * cell_len(indent)) + text.rstrip())

    def notes(self, width: int) -> Iterable[Text]:
        if not self.first:
            return
        count = len(self.labels)
        note = f"Shown: the last {count - self.first} of {count} tokens that fit {width} columns"
        if self.with_earlier:
            note += f"; column {self.earlier_mark} adds up the first {self.first}"
        yield Text(f"{note}.", style="dim")


def _cell(scale: Scale, shading: Shading, value: float, width: int) -> Text:
    number = scale.number(value) if width >= _NUMBER_CELL else ""
    if shading == "color":
        return Text(f"{number:>{width - 1}} ", style=scale.style(value))
    character = scale.character(value, shading)
    if character == _CHARACTERS[shading][0]:
        return Text(f"{number or character:>{max(1, width - 1)}} "[:width], style="dim")
    if not number:
        return Text(character * width)
    fill = character * max(1, width - 4)
    return Text(f"{fill}{number:>{width - 1 - len(fill)}} ")


def small_map(values: Float32Array, side: int, shading: Shading, scale: Scale) -> list[Text]:
    """A map without labels, at most `side` columns wide and half as many lines high.

    Larger maps are shrunk; each spot shows the largest value it stands for, so that thin stripes
    stay visible.
    """
    seq = len(values)
    side = min(max(2, side), seq)
    starts = np.linspace(0, seq, side + 1).round().astype(int)[:-1]
    blocks = np.maximum.reduceat(np.maximum.reduceat(values, starts, axis=0), starts, axis=1)
    spots = np.full((side + side % 2, side), np.nan)
    spots[:side] = np.where(np.tri(side) > 0, blocks, np.nan)
    pairs = list(zip(spots[::2], spots[1::2], strict=True))
    if shading == "color":
        return [_half_blocks(upper, lower, scale) for upper, lower in pairs]
    lines = []
    for upper, lower in pairs:
        pair = np.fmax(upper, lower)
        text = "".join(" " if np.isnan(v) else scale.character(float(v), shading) for v in pair)
        lines.append(Text(text.rstrip()))
    return lines


def _half_blocks(upper: Float32Array, lower: Float32Array, scale: Scale) -> Text:
    """Two rows of spots in one line of text: the upper is ink, the lower background."""
    line = Text()
    for above, below in zip(upper, lower, strict=True):
        if np.isnan(above) and np.isnan(below):
            break
        if np.isnan(above):
            line.append("▄", scale.color(float(below)))
        elif np.isnan(below):
            line.append("▀", scale.color(float(above)))
        else:
            line.append("▀", f"{scale.color(float(above))} on {scale.color(float(below))}")
    return line
