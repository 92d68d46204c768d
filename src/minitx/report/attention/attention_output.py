"""Where an attention study goes: the terminal, a page, a picture, or arrays."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path

import numpy as np
from rich.console import Console

from minitx.config import AttentionRequest
from minitx.errors import BadInputError
from minitx.files import writing_where_asked
from minitx.report.attention.attention_screen import (
    attention_screen,
    map_name,
    position_of,
    scale_of,
)
from minitx.report.pages.attention_page import study_page
from minitx.report.pages.templates import write_page
from minitx.report.terminal.heatmap import shading_for
from minitx.report.terminal.token_labels import cut_label, token_label
from minitx.workflows.attend import AttentionStudy, ChosenMap, choose_maps, save_maps

_LABELLED = 64


def print_study(study: AttentionStudy, request: AttentionRequest, ascii_only: bool) -> None:
    """Print what was asked for.

    Raises:
        BadInputError: there is no such layer, head or token; nothing was printed.
    """
    console = Console(highlight=False, soft_wrap=False)
    shading = "ascii" if ascii_only else shading_for(console)
    # All is measured before anything is printed, so that an error stands alone.
    for part in list(attention_screen(study, request, shading, console.width)):
        console.print(part)


def write_study(
    study: AttentionStudy,
    request: AttentionRequest,
    html: Path | None = None,
    png: Path | None = None,
    npz: Path | None = None,
) -> Iterator[Path]:
    """Write the files that are named, and give the name of each once it is there.

    Raises:
        BadInputError: there is no such layer or head, or a file can't be written.
    """
    # What can be refused is refused before a file is written.
    position_of(study, request)
    study.require_heads(request.layer, request.head)
    page = "" if html is None else study_page(study, request)
    if png is not None:
        chosen = choose_maps(study, request.kind, request.layer, request.head)
        _save_png(chosen.maps, study.maps.tokens, png)
        yield png
    if npz is not None:
        save_maps(study, npz)
        yield npz
    if html is not None:
        write_page(page, html)
        yield html


def _save_png(maps: Sequence[ChosenMap], tokens: Sequence[str], path: Path) -> None:
    """Draw one map large, or several as a grid with a row for each layer, with matplotlib.

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
    for shown, ax in zip_longest(maps, axes.flat):
        if shown is None:
            ax.set_axis_off()
            continue
        # Half the way along the colours is a quarter of the top, as in the terminal.
        seen = np.where(np.tri(len(tokens)) > 0, shown.values, np.nan)
        image = ax.imshow(seen, cmap="Blues", norm=PowerNorm(0.5, 0, scale.top))
        ax.set_title(map_name(shown) if single else _brief_name(shown), fontsize=10)
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


def _brief_name(shown: ChosenMap) -> str:
    return f"layer {shown.layer}" if shown.head is None else f"{shown.layer}.{shown.head}"
