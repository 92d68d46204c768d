"""What studies, maps and reports look like when rich prints them or a notebook shows them."""

from __future__ import annotations

import io
from collections.abc import Iterable

from rich.console import Console, RenderableType

from minitx.config import AttentionRequest
from minitx.evaluation.holdout_figures import ComparisonReport, HoldoutReport
from minitx.inspection.ablation import Ablation
from minitx.inspection.attention_maps import AttentionMaps
from minitx.inspection.attribution import Attribution
from minitx.inspection.head_roles import HeadRoles
from minitx.inspection.logit_lens import LogitLens
from minitx.inspection.mask_check import MaskCheck
from minitx.inspection.patching import Patching
from minitx.report.attention import attention_view
from minitx.report.attention.attention_screen import attention_screen, map_name, quantity_of
from minitx.report.attention.causes_view import Causes, attribution_table, patching_tables
from minitx.report.evaluation.holdout_report import holdout_report
from minitx.report.pages.attention_page import study_page
from minitx.report.pages.templates import render
from minitx.report.terminal.heatmap import Heatmap, Scale, shading_for
from minitx.report.terminal.printable import token_label
from minitx.shown import Shown
from minitx.workflows.attend import AttentionStudy, ChosenMap

_WIDTH = 100
_MOST_TOKENS = 64


def view(shown: Shown, console: Console, width: int) -> Iterable[RenderableType]:
    """What rich prints of an object, in parts; the console's colours decide how maps are drawn.

    Raises:
        NotImplementedError: nobody said what objects of this class look like.
    """
    shading = shading_for(console)
    match shown:
        case AttentionStudy():
            return attention_screen(shown, AttentionRequest(), shading, width)
        case ChosenMap():
            return [map_name(shown), _heatmap(shown)]
        case AttentionMaps():
            maps = [
                (f"{layer}.{head}", shown.head(layer, head))
                for layer in range(shown.n_layers)
                for head in range(shown.n_heads)
            ]
            return attention_view.maps_grid(maps, shown.n_heads, Scale(1.0), shading, width)
        case HeadRoles():
            return [attention_view.roles_table(shown)]
        case LogitLens():
            return [attention_view.lens_table(shown, shown.top_ids.shape[1] - 1, shading)]
        case Ablation():
            return [attention_view.ablation_table(shown, width, shading)]
        case Attribution():
            return [attribution_table(shown, width, shading)]
        case Patching():
            return patching_tables(Causes(None, shown, None), shading)
        case MaskCheck():
            return attention_view.mask_lines(shown, shading)
        case HoldoutReport() | ComparisonReport():
            return holdout_report(shown, shading, width)
    raise NotImplementedError(type(shown).__name__)


def as_html(shown: Shown) -> str:
    """What a notebook shows of an object: what rich prints, in colour, unless there is better."""
    match shown:
        case AttentionStudy():
            # The page of `minitx attn --html`, in a frame of its own.
            return render("notebook_frame.html", page=study_page(shown))
        case ChosenMap():
            return map_grid(_heatmap(shown), map_name(shown))
        case LogitLens():
            # The last layer on top; a frame is round the token that does follow.
            return render(
                "notebook_lens.html", lens=shown, scale=Scale(1.0),
                tokens=shown.tokens or tuple(map(str, range(shown.top_ids.shape[1]))),
                guesses=shown.top_ids.tolist(), chances=shown.top_probabilities.tolist(),
            )  # fmt: skip
    console = Console(
        file=io.StringIO(), record=True, width=_WIDTH, force_terminal=True,
        color_system="truecolor", no_color=False, legacy_windows=False, force_jupyter=False,
    )  # fmt: skip
    console.print(shown)
    style = "font-family:ui-monospace,Menlo,Consolas,monospace;line-height:1.25;overflow-x:auto"
    return console.export_html(
        inline_styles=True, code_format=f'<pre style="{style}">{{code}}</pre>'
    )


def _heatmap(shown: ChosenMap) -> Heatmap:
    tokens = shown.tokens or tuple(map(str, range(len(shown.values))))
    return Heatmap(shown.values, tokens, quantity_of(shown.kind))


def map_grid(heatmap: Heatmap, name: str | None = None) -> str:
    """A map as an HTML table, each value in its cell's title; of a long text, the last tokens."""
    labels = [token_label(token) for token in heatmap.tokens]
    shown = range(max(0, len(labels) - _MOST_TOKENS), len(labels))
    return render(
        "notebook_map.html", name=name, labels=labels, shown=shown,
        values=heatmap.values.tolist(), scale=heatmap.scale,
    )  # fmt: skip
