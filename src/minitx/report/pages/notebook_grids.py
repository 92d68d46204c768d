"""An attention map and the logit lens as tables for a notebook."""

from __future__ import annotations

from minitx.inspection.logit_lens import LogitLens
from minitx.report.pages.elements import Cell, Grid, Run, text_cell
from minitx.report.pages.templates import render
from minitx.report.terminal.heatmap import Heatmap, Scale
from minitx.report.terminal.token_labels import token_label

_MOST_TOKENS = 64


def map_grid(heatmap: Heatmap, name: str | None = None) -> str:
    """A map as an HTML table, each value in its cell's title; of a long text, the last tokens."""
    labels = [token_label(token) for token in heatmap.tokens]
    shown = range(max(0, len(labels) - _MOST_TOKENS), len(labels))
    scale = heatmap.scale

    def cell(i: int, j: int) -> Cell:
        value = float(heatmap.values[i, j])
        title = f"{i} {labels[i]} → {j} {labels[j]}: {value:.3g}"
        return Cell([], style=f"background:{scale.color(value)}", title=title)

    rows = [[text_cell(labels[i]), *(cell(i, j) for j in shown if j <= i)] for i in shown]
    head = [text_cell(label) for label in ("", *(labels[j] for j in shown))]
    note = f"The last {len(shown)} of {len(labels)} tokens." if shown[0] else None
    return render("notebook_map.html", grid=Grid(rows, head), name=name, note=note)


def lens_grid(lens: LogitLens) -> str:
    """The logit lens: what every layer would say after every token.

    Rows are the readings, the last layer on top; columns the tokens of the text. A cell has the
    likeliest token that follows, coloured by its probability, and all that are kept in its title.
    It is framed where that token does follow.
    """
    scale = Scale(1.0)
    tokens = lens.tokens or tuple(map(str, range(lens.top_ids.shape[1])))

    def cell(layer: int, position: int) -> Cell:
        pieces = [lens.pieces.get(int(i), str(i)) for i in lens.top_ids[layer, position]]
        chances = [float(p) for p in lens.top_probabilities[layer, position]]
        title = ", ".join(
            f"{token_label(piece)} {100 * chance:.0f} %"
            for piece, chance in zip(pieces, chances, strict=True)
        )
        follows = tokens[position + 1 : position + 2] == (pieces[0],) and bool(lens.pieces)
        classes = "next" if follows else None
        return Cell([Run(token_label(pieces[0]))], classes, scale.css(chances[0]), title)

    rows = [
        [
            text_cell(lens.names[layer]),
            *(cell(layer, position) for position in range(len(tokens))),
            text_cell(f"{lens.loss[layer]:.3f}" if len(lens.loss) else ""),
        ]
        for layer in reversed(range(len(lens.names)))
    ]
    head = [text_cell(label) for label in ("layer", *map(token_label, tokens), "loss")]
    return render("notebook_lens.html", grid=Grid(rows, head))
