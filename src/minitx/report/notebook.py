"""What studies, maps and reports look like when rich prints them or a notebook shows them."""

from __future__ import annotations

import io
from collections.abc import Iterable
from functools import singledispatch

from rich.console import Console, RenderableType

from minitx.config import AttentionRequest
from minitx.evaluation.holdout_figures import ComparisonReport, HoldoutReport
from minitx.inspection.ablation import Ablation
from minitx.inspection.attention_maps import AttentionMaps
from minitx.inspection.head_roles import HeadRoles
from minitx.inspection.logit_lens import LogitLens
from minitx.inspection.mask_check import MaskCheck
from minitx.report.attention import attention_view
from minitx.report.attention.attention_screen import attention_screen, map_name, quantity_of
from minitx.report.evaluation.holdout_report import holdout_report
from minitx.report.pages.attention_page import study_page
from minitx.report.pages.notebook_grids import lens_grid, map_grid
from minitx.report.pages.templates import render
from minitx.report.terminal.heatmap import Heatmap, Scale, Shading, shading_for
from minitx.shown import Shown
from minitx.workflows.attend import AttentionStudy, ChosenMap

_WIDTH = 100


def view(shown: Shown, console: Console, width: int) -> Iterable[RenderableType]:
    """What rich prints of an object, in parts; the console's colours decide how maps are drawn."""
    return _parts(shown, shading_for(console), width)


@singledispatch
def _parts(shown: Shown, shading: Shading, width: int) -> Iterable[RenderableType]:
    raise NotImplementedError(type(shown).__name__)


@_parts.register
def _(shown: AttentionStudy, shading: Shading, width: int) -> Iterable[RenderableType]:
    return attention_screen(shown, AttentionRequest(), shading, width)


@_parts.register
def _(shown: ChosenMap, shading: Shading, width: int) -> Iterable[RenderableType]:
    return [map_name(shown), _heatmap(shown)]


@_parts.register
def _(shown: AttentionMaps, shading: Shading, width: int) -> Iterable[RenderableType]:
    scale = Scale(1.0)
    maps = [
        (f"{layer}.{head}", shown.head(layer, head))
        for layer in range(shown.n_layers)
        for head in range(shown.n_heads)
    ]
    lines = attention_view.maps_grid(maps, shown.n_heads, scale, shading, width)
    return [*lines, scale.legend(shading)]


@_parts.register
def _(shown: HeadRoles, shading: Shading, width: int) -> Iterable[RenderableType]:
    return [attention_view.roles_table(shown)]


@_parts.register
def _(shown: LogitLens, shading: Shading, width: int) -> Iterable[RenderableType]:
    return [attention_view.lens_table(shown, shown.top_ids.shape[1] - 1, shading)]


@_parts.register
def _(shown: Ablation, shading: Shading, width: int) -> Iterable[RenderableType]:
    return [attention_view.ablation_table(shown, width, shading)]


@_parts.register
def _(shown: MaskCheck, shading: Shading, width: int) -> Iterable[RenderableType]:
    return attention_view.mask_lines(shown, shading)


# One report, or several compared.
_parts.register(HoldoutReport)(holdout_report)
_parts.register(ComparisonReport)(holdout_report)


@singledispatch
def as_html(shown: Shown) -> str:
    """What a notebook shows of an object: what rich prints, in colour, unless there is better."""
    console = Console(
        file=io.StringIO(), record=True, width=_WIDTH, force_terminal=True,
        color_system="truecolor", no_color=False, legacy_windows=False, force_jupyter=False,
    )  # fmt: skip
    console.print(shown)
    style = "font-family:ui-monospace,Menlo,Consolas,monospace;line-height:1.25;overflow-x:auto"
    return console.export_html(
        inline_styles=True, code_format=f'<pre style="{style}">{{code}}</pre>'
    )


@as_html.register
def _(shown: AttentionStudy) -> str:
    """The page of `minitx attn --html`, in a frame of its own."""
    return render("notebook_frame.html", page=study_page(shown, AttentionRequest()))


@as_html.register
def _(shown: ChosenMap) -> str:
    return map_grid(_heatmap(shown), map_name(shown))


@as_html.register
def _(shown: LogitLens) -> str:
    return lens_grid(shown)


def _heatmap(shown: ChosenMap) -> Heatmap:
    tokens = shown.tokens or tuple(map(str, range(len(shown.values))))
    return Heatmap(shown.values, tokens, quantity_of(shown.kind))
