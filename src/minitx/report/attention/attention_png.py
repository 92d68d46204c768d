"""Attention maps as a PNG picture, drawn by matplotlib (an optional extra)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from minitx.errors import BadInputError
from minitx.files import writing_where_asked
from minitx.report.attention.attention_screen import map_name, scale_of
from minitx.report.terminal.token_labels import cut_label, token_label
from minitx.workflows.attend import ChosenMap

_LABELLED = 64


def save_png(maps: Sequence[ChosenMap], tokens: Sequence[str], path: Path) -> None:
    """Draw one map large, or several as a grid with a row for each layer.

    Raises:
        BadInputError: when matplotlib is not installed or the file can't be written.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.colors import PowerNorm
        from matplotlib.figure import Figure
    except ImportError:
        raise BadInputError(
            "--png needs matplotlib, which is not installed", "Run pip install 'minitx[png]'"
        ) from None
    columns = sum(one.layer == maps[0].layer for one in maps)
    if columns == 1:
        columns = math.ceil(math.sqrt(len(maps)))
    rows = math.ceil(len(maps) / columns)
    single = len(maps) == 1
    side = max(4.0, min(12.0, 0.22 * len(tokens) + 2)) if single else 2.2
    figure = Figure(figsize=(side * columns + 0.8, side * rows + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False)
    scale = scale_of(maps)
    names = [cut_label(token_label(token), 12) for token in tokens]
    image = None
    for place, ax in enumerate(axes.flat):
        if place >= len(maps):
            ax.set_axis_off()
            continue
        one = maps[place]
        # Half the way along the colours is a quarter of the top, as in the terminal.
        seen = np.where(np.tri(len(tokens)) > 0, one.values, np.nan)
        image = ax.imshow(seen, cmap="Blues", norm=PowerNorm(0.5, 0, scale.top))
        ax.set_title(map_name(one) if single else _brief(one), fontsize=10)
        ax.spines[["top", "right"]].set_visible(False)
        if single and len(tokens) <= _LABELLED:
            ax.set_xticks(range(len(names)), names, rotation=90, fontsize=8, family="monospace")
            ax.set_yticks(range(len(names)), names, fontsize=8, family="monospace")
            ax.xaxis.tick_top()
        elif not single:
            ax.set_xticks([])
            ax.set_yticks([])
    if single:
        axes[0, 0].set_ylabel("token that looks")
        axes[0, 0].set_xlabel("token looked at")
    label = "weight" if scale.quantity == "weight" else "weight x value norm"
    assert image is not None
    figure.colorbar(image, ax=axes, shrink=0.6, label=label)
    with writing_where_asked(path) as file:
        figure.savefig(file, format="png", dpi=160)


def _brief(one: ChosenMap) -> str:
    return f"layer {one.layer}" if one.head is None else f"{one.layer}.{one.head}"
