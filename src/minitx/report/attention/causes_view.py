"""Why one token: views of attribution and patching, for a terminal, as JSON, and as grids."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import RenderableType
from rich.text import Text

from minitx.config import AttentionRequest
from minitx.evaluation.arrays import FloatArray
from minitx.inspection.attribution import Attribution
from minitx.inspection.patching import Patching
from minitx.report.terminal.heatmap import Scale, Shading
from minitx.report.terminal.printable import cut_label, token_label
from minitx.report.terminal.tables import bar, table
from minitx.workflows.attend import AttentionStudy

_PARTS = {
    "heads": "a head, at all positions",
    "residual": "the residual stream before a block, at one position",
    "attention": "what a block's attention adds, at one position",
    "mlp": "what a block's MLP adds, at one position",
}


@dataclass(frozen=True, eq=False)
class Grid:
    """Figures with names of rows and columns; `top` is that of the colours."""

    title: str
    rows: Sequence[str]
    columns: Sequence[str]
    values: FloatArray
    top: float


@dataclass(frozen=True, eq=False)
class Causes:
    """What a request asks for of a study; None where it does not.

    Attributes:
        one_head: (seq,) with the head that is named patched at one position each.
    """

    attribution: Attribution | None
    patching: Patching | None
    one_head: FloatArray | None
    layer: int = 0
    head: int = 0


def causes_of(study: AttentionStudy, request: AttentionRequest, position: int | None) -> Causes:
    """Measure it; errors as in `AttentionStudy.attribution` and `patcher`."""
    attribution, patching, one_head = None, None, None
    layer, head = request.layer, request.head
    if request.attribute:
        attribution = study.attribution(-1 if position is None else position, request.answer)
    if request.corrupted is not None:
        study.require_heads(layer, head)
        patcher = study.patcher(request.corrupted, request.answer)
        patching = patcher.everywhere(study.tokenizer.piece)
        if isinstance(layer, int) and isinstance(head, int):
            one_head = patcher.head_by_position(layer, head)
            return Causes(attribution, patching, one_head, layer, head)
    return Causes(attribution, patching, one_head)


def causes_json(causes: Causes) -> dict[str, Any]:
    """Both as they stand in the JSON of a study; patching in logits, and as parts of the way."""
    values: dict[str, Any] = {}
    if (found := causes.attribution) is not None:
        parts = [{"name": each.name, **dataclasses.asdict(each)} for each in found.contributions]
        values["attribution"] = {
            "token": found.token, "text": found.text, "logit": found.logit, "total": found.total,
            "contributions": parts,
        }  # fmt: skip
    if (patching := causes.patching) is not None:
        values["patching"] = {
            name: each.tolist() if isinstance(each, np.ndarray) else each
            for name, each in vars(patching).items()
        } | {"recovered": {part: patching.recovered(getattr(patching, part)).tolist()
                           for part in _PARTS}}  # fmt: skip
        if causes.one_head is not None:
            values["patching"]["head"] = {
                "layer": causes.layer, "head": causes.head, "by_position": causes.one_head.tolist(),
            }  # fmt: skip
    return values


def attribution_table(found: Attribution, width: int, shading: Shading) -> RenderableType:
    """The parts of a logit by size, with bars, and their sum."""
    ascii_only = shading == "ascii"
    label = token_label(found.text, ascii_only)
    parts = sorted(found.contributions, key=lambda each: -abs(each.logit))
    largest = abs(parts[0].logit) or 1.0
    room = max(8, min(40, width - 34))
    lines = [Text(f"What adds up to the logit of {label}, {found.logit:.4f}", style="bold")]
    for each in parts:
        line = Text(f"{each.name:<18}{each.logit:>+10.4f}  ")
        style = "cyan" if each.logit > 0 else "yellow"
        lines.append(line.append(bar(abs(each.logit) / largest, room, ascii_only), style))
    lines.append(Text(f"{'sum':<18}{found.total:>+10.4f}", style="bold"))
    lines += [Text(), Text(
        "Each part's share of the last residual stream, through the last norm (with its scale as "
        "it was here) and the token's row of the output head.", style="dim",
    )]  # fmt: skip
    return Text("\n").join(lines)


def patching_tables(causes: Causes, shading: Shading) -> Iterator[RenderableType]:
    """A table for each kind of part, in percent of the way from corrupted to clean."""
    patching = causes.patching
    assert patching is not None
    ascii_only = shading == "ascii"
    name = token_label(patching.text, ascii_only)
    if patching.against is not None:
        name += f" less that of {token_label(patching.against_text, ascii_only)}"
    yield Text(f"Logit of {name}", style="bold").append(
        f": clean {patching.clean:.4f}, corrupted {patching.corrupted:.4f}", "not bold"
    )
    for grid in patching_grids(causes, ascii_only):
        yield Text(f"\n{grid.title}", style="bold")
        scale = Scale(1.0)
        rows = [
            [Text(label), *(_share(float(value), scale, shading) for value in values)]
            for label, values in zip(grid.rows, grid.values, strict=True)
        ]
        yield table(["", *grid.columns], rows, range(1, 1 + len(grid.columns)), padding=(0, 1))
    yield Text(
        "Percent of the way from corrupted (0) to clean (100) that one part of the clean run "
        "brings back.", style="dim",
    )  # fmt: skip


def _share(value: float, scale: Scale, shading: Shading) -> Text:
    style = scale.style(value) if shading == "color" and value > 0 else ""
    return Text(str(round(100 * value)), style)


def patching_grids(causes: Causes, ascii_only: bool = False) -> Iterator[Grid]:
    """What `patching_tables` shows, as parts of the way."""
    patching = causes.patching
    assert patching is not None
    layers = [f"layer {i}" for i in range(len(patching.heads))]
    heads = [f"head {i}" for i in range(patching.heads.shape[1])]
    tokens = [
        f"{i} {cut_label(token_label(token, ascii_only), 12, ascii_only)}"
        for i, token in enumerate(patching.tokens)
    ]
    for part, title in _PARTS.items():
        values = patching.recovered(getattr(patching, part))
        if part == "heads":
            yield Grid(f"Patched: {title}", layers, heads, values, 1.0)
        else:
            yield Grid(f"Patched: {title}", tokens, layers, values.T, 1.0)
    if causes.one_head is not None:
        values = patching.recovered(causes.one_head)[:, None]
        title = f"Patched: head {causes.layer}.{causes.head}, at one position"
        yield Grid(title, tokens, [f"{causes.layer}.{causes.head}"], values, 1.0)


def attribution_grid(found: Attribution) -> Grid:
    """Layers by heads and MLP; what belongs to no layer stands in the title."""
    of_layers = [each for each in found.contributions if each.layer is not None]
    layers = range(1 + max(each.layer or 0 for each in of_layers))
    columns = list(dict.fromkeys(
        f"head {each.head}" if each.head is not None else each.part for each in of_layers
    ))  # fmt: skip
    values = np.array([each.logit for each in of_layers]).reshape(len(layers), len(columns))
    others = [f"{e.name} {e.logit:+.2f}" for e in found.contributions if e.layer is None]
    label = token_label(found.text)
    title = f"Logit of {label}, {found.logit:.2f}: {', '.join(others)}, and"
    rows = [f"layer {i}" for i in layers]
    return Grid(title, rows, columns, values, float(np.abs(values).max()) or 1.0)
