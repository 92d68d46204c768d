"""Where an attention study goes: the terminal, JSON, a page, a picture, or arrays."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console, RenderableType

from minitx.config import AttentionRequest
from minitx.errors import BadInputError
from minitx.files import writing_where_asked
from minitx.inspection.attention_maps import most_looked_at
from minitx.inspection.logit_lens import LogitLens
from minitx.report.attention.attention_screen import (
    attention_screen,
    brief_name,
    map_name,
    position_of,
    quantity_of,
    scale_of,
)
from minitx.report.attention.causes_view import (
    Grid,
    attribution_grid,
    causes_json,
    causes_of,
    patching_grids,
)
from minitx.report.attention.film_view import film_grids, film_json
from minitx.report.pages.attention_page import study_page
from minitx.report.pages.templates import write_page
from minitx.report.terminal.heatmap import shading_for
from minitx.report.terminal.printable import cut_label, json_line, token_label
from minitx.workflows.attend import AttentionStudy, ChosenMap, choose_maps, save_maps

_LABELLED = 64


def study_screen(
    study: AttentionStudy, request: AttentionRequest, console: Console, ascii_only: bool
) -> list[RenderableType]:
    """Measure what was asked for, to print it on `console`.

    Raises:
        BadInputError: there is no such layer, head or token.
    """
    study.require_heads(request.layer, request.head)
    shading = "ascii" if ascii_only else shading_for(console)
    return list(attention_screen(study, request, shading, console.width))


def study_json(study: AttentionStudy, request: AttentionRequest) -> str:
    """One JSON object; numbers to 6 digits after the point, but for the mask check's.

    Raises:
        BadInputError: when there is no such layer, head or token.
    """
    study.require_heads(request.layer, request.head)
    values: dict[str, Any] = {
        "checkpoint": str(study.checkpoint),
        "prompt": study.prompt,
        "prompt_from": study.prompt_from or "--prompt",
        "tokens": study.maps.tokens,
        "ids": study.ids.tolist(),
    }
    position = position_of(study, request)
    if request.wants_map:
        maps, values["reason"] = choose_maps(study, request.kind, request.layer, request.head)
        values["maps"] = [_map(study, shown, position, request.top) for shown in maps]
    if request.roles or request.is_default:
        values["roles"] = {
            "measured_on": study.roles.measured_on,
            "heads": [
                dataclasses.asdict(head)
                | {
                    "scores": {
                        role: {**dataclasses.asdict(score), "strength": score.strength}
                        for role, score in head.scores.items()
                    }
                }
                for head in study.roles.heads
            ],
        }
    if request.ablate:
        ablation = study.ablation
        values["ablation"] = ablation and {
            "loss": ablation.loss,
            "measured_on": ablation.measured_on,
            "heads": [dataclasses.asdict(head) for head in ablation.heads],
        }
    if request.lens:
        values["logit_lens"] = _lens(study.lens)
    values |= causes_json(causes_of(study, request, position))
    if request.film:
        values["film"] = film_json(study.film, request)
    values = json.loads(json.dumps(values), parse_float=lambda number: round(float(number), 6))
    if request.check_mask:
        check = study.mask_check
        values["mask_check"] = {"passed": check.passed, **dataclasses.asdict(check)}
    return json_line(values)


def _map(
    study: AttentionStudy, chosen: ChosenMap, position: int | None, top: int | None
) -> dict[str, Any]:
    values: dict[str, Any] = {
        "kind": chosen.kind, "layer": chosen.layer, "head": chosen.head,
        "quantity": quantity_of(chosen.kind),
    }  # fmt: skip
    if position is None and top is None:
        return values | {"values": chosen.values.tolist()}
    tokens = study.maps.tokens
    return values | {
        "looked_at": [
            {
                "token": row,
                "text": tokens[row],
                "top": [
                    {"token": looked.position, "text": looked.token, "value": looked.value}
                    for looked in most_looked_at(chosen.values, tokens, row, top or 5)
                ],
            }
            for row in (range(len(tokens)) if position is None else [position])
        ]
    }


def _lens(lens: LogitLens) -> list[dict[str, Any]]:
    ids, probabilities = lens.top_ids.tolist(), lens.top_probabilities.tolist()
    return [
        {
            "after": name,
            "loss": float(lens.loss[layer]) if len(lens.loss) else None,
            "next_probability": lens.next_probability[layer].tolist(),
            "top": [
                [
                    {"id": token, "text": lens.piece(token), "probability": probability}
                    for token, probability in zip(*guesses, strict=True)
                ]
                for guesses in zip(ids[layer], probabilities[layer], strict=True)
            ],
        }
        for layer, name in enumerate(lens.names)
    ]


def write_study(
    study: AttentionStudy,
    request: AttentionRequest,
    html: Path | None = None,
    png: Path | None = None,
    npz: Path | None = None,
) -> Iterator[Path]:
    """Write the files that are named, and give the name of each once it is there.

    Raises:
        BadInputError: there is no such layer or head, a file can't be written, or matplotlib is
            not installed.
    """
    # What can be refused is refused before a file is written.
    position = position_of(study, request)
    study.require_heads(request.layer, request.head)
    page = "" if html is None else study_page(study, request.layer, request.head)
    if png is not None:
        causes = causes_of(study, request, position)
        grids = [attribution_grid(causes.attribution)] if causes.attribution else []
        grids += patching_grids(causes) if causes.patching else ()
        grids += film_grids(study.film, request) if request.film else ()
        if grids:
            _save_grids(grids, png)
        else:
            maps, _ = choose_maps(study, request.kind, request.layer, request.head)
            _save_png(maps, study.maps.tokens, png)
        yield png
    if npz is not None:
        save_maps(study, npz)
        yield npz
    if html is not None:
        write_page(page, html)
        yield html


def _new_figure(width: float, height: float) -> Any:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise BadInputError(
            "--png needs matplotlib, which is not installed",
            'Install it with: pip install "minitx[png]"',
        ) from None
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save_grids(grids: Sequence[Grid], path: Path) -> None:
    """Draw grids below each other, blue above 0 and red below."""
    heights = [0.25 * len(grid.rows) + 1.2 for grid in grids]
    width = max(0.5 * len(grid.columns) for grid in grids) + 3
    figure = _new_figure(max(6.0, min(16.0, width)), min(60.0, sum(heights)))
    axes = figure.subplots(len(grids), 1, squeeze=False, height_ratios=heights)[:, 0]
    for grid, ax in zip(grids, axes, strict=True):
        colours, low = ("RdBu", -grid.top) if np.nanmin(grid.values) < 0 else ("Blues", 0.0)
        image = ax.imshow(grid.values, cmap=colours, vmin=low, vmax=grid.top, aspect="auto")
        ax.set_title(grid.title, fontsize=10)
        ax.set_xticks(range(len(grid.columns)), grid.columns, rotation=90, fontsize=8)
        ax.set_yticks(range(len(grid.rows)), grid.rows, fontsize=8, family="monospace")
        figure.colorbar(image, ax=ax)
    with writing_where_asked(path) as file:
        figure.savefig(file, format="png", dpi=120)


def _save_png(maps: Sequence[ChosenMap], tokens: Sequence[str], path: Path) -> None:
    """Draw one map large, or several as a grid with a row for each layer, with matplotlib."""
    columns = sum(shown.layer == maps[0].layer for shown in maps)
    if columns == 1:
        columns = math.ceil(math.sqrt(len(maps)))
    rows = math.ceil(len(maps) / columns)
    single = len(maps) == 1
    side = max(4.0, min(12.0, 0.22 * len(tokens) + 2)) if single else 2.2
    figure = _new_figure(side * columns + 0.8, side * rows + 0.4)
    from matplotlib.colors import PowerNorm

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
        ax.set_title(map_name(shown) if single else brief_name(shown), fontsize=10)
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
