"""What `minitx attn` prints: the map, what it is a map of, and the tables asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.text import Text

from minitx.config import AttentionRequest, MapKind
from minitx.inspection.attention_maps import most_looked_at, require_existing
from minitx.report.attention import attention_view
from minitx.report.terminal.heatmap import Heatmap, Quantity, Scale, Shading
from minitx.report.terminal.printable import cut_label, printed_name, text_label, token_label
from minitx.report.terminal.units import count
from minitx.workflows.attend import AttentionStudy, ChosenMap, ChosenMaps, choose_maps

_CAPTIONS: dict[MapKind, str] = {
    "weight": "Row: the token that looks. Cell: share of its attention that goes to that column.",
    "norm": "Row: the token that looks. Cell: attention weight times the norm of the value.",
    "average": "Row: the token that looks. Cell: mean share of attention to that column.",
    "rollout": "Row: a position after the layer. Cell: share that comes from that column.",
}

_OVERVIEW = "All heads: role, and its score in percent (-: no role stands out)"
_MORE = "More: --layer N --head N|all, --token N, --roles, --lens, --ablate, --html FILE"


def position_of(study: AttentionStudy, request: AttentionRequest) -> int | None:
    """The position that a request means by `token`, which counts from the end if negative.

    Raises:
        BadInputError: when there is no such token.
    """
    if request.token is None:
        return None
    n_tokens = len(study.ids)
    position = request.token + n_tokens if request.token < 0 else request.token
    require_existing("token", position if position >= 0 else request.token, n_tokens)
    return position


def attention_screen(
    study: AttentionStudy, request: AttentionRequest, shading: Shading, width: int
) -> Iterator[RenderableType]:
    """Lay out what was asked for, one renderable after the other.

    Raises:
        BadInputError: when there is no such layer, head or token.
    """
    position = position_of(study, request)
    yield _about(study, shading, width)
    yield Text()
    if request.wants_map:
        chosen = choose_maps(study, request.kind, request.layer, request.head)
        if position is not None or request.top is not None:
            yield from _looked_at(study, chosen, position, request.top or 5, shading, width)
        elif len(chosen.maps) == 1:
            yield from _one_map(study, chosen.maps[0], chosen.reason, shading, width)
        else:
            yield from _grid(study, chosen.maps, shading, width)
        if request.is_default:
            shown = chosen.maps[0]
            yield Text()
            yield Text(_OVERVIEW, style="bold")
            yield attention_view.heads_overview(study.roles, (shown.layer, shown.head), width)
            yield Text()
            yield Text(_MORE, style="dim")
    if request.roles:
        yield attention_view.roles_table(study.roles, study.ablation if request.ablate else None)
    elif request.ablate and study.ablation is not None:
        yield attention_view.ablation_table(study.ablation, width, shading)
    elif request.ablate:
        yield Text("Nothing to score: the text has a single token.", style="dim")
    if request.lens:
        at = position if position is not None else len(study.ids) - 1
        yield attention_view.lens_table(study.lens, at, shading)
    if request.check_mask:
        yield from attention_view.mask_lines(study.mask_check, shading)


def map_name(shown: ChosenMap) -> str:
    """What a map is a map of, in words."""
    if shown.kind == "average":
        layer = shown.layer
        return "mean of all heads" if layer is None else f"mean of layer {layer}'s heads"
    if shown.kind == "rollout":
        return f"rollout of layers 0 to {shown.layer}" if shown.layer else "rollout of layer 0"
    name = f"layer {shown.layer}, head {shown.head}"
    return f"{name}, value-weighted norms" if shown.kind == "norm" else name


def quantity_of(kind: MapKind) -> Quantity:
    """What the numbers of a kind of map are."""
    return "norm" if kind == "norm" else "weight"


def scale_of(maps: Sequence[ChosenMap]) -> Scale:
    """One scale for some maps of a kind: weights up to 1, norms up to the largest."""
    if maps[0].kind != "norm":
        return Scale(1.0)
    return Scale(max(float(one.values.max()) for one in maps) or 1.0, "norm")


def _about(study: AttentionStudy, shading: Shading, width: int) -> Text:
    config = study.model.config
    ascii_only = shading == "ascii"
    shape = f"  {config.architecture}, {config.n_layers} layers of {config.n_heads} heads\n"
    source = f", {study.prompt_from}" if study.prompt_from else ""
    name = f"text of {count(len(study.ids))} tokens{source}: "
    prompt = text_label(study.prompt, ascii_only).strip()
    quoted = cut_label(prompt, max(10, width - len(name)), ascii_only)
    text = Text(printed_name(study.checkpoint), style="bold").append(shape, "not bold")
    return text.append(name, "not bold dim").append(quoted, "not bold")


def _one_map(
    study: AttentionStudy, shown: ChosenMap, reason: str | None, shading: Shading, width: int
) -> Iterator[RenderableType]:
    title = Text(map_name(shown), style="bold")
    if shown.head is not None and shown.layer is not None:
        one = study.roles.of(shown.layer, shown.head)
        if one and one.role:
            found = one.scores[one.role]
            title.append(f"  {one.role} {100 * found.score:.0f} %", "not bold")
            title.append(f" (control {100 * found.control:.0f} %)", "not bold dim")
    yield title
    if reason:
        yield Text(f"Shown because it is {reason}.", style="dim")
    yield Text(_CAPTIONS[shown.kind], style="dim")
    yield Text()
    yield Heatmap(shown.values, study.maps.tokens, quantity_of(shown.kind), shading)


def _grid(
    study: AttentionStudy, maps: Sequence[ChosenMap], shading: Shading, width: int
) -> Iterator[RenderableType]:
    per_layer = sum(shown.layer == maps[0].layer for shown in maps)
    named = [(_short_name(study, shown), shown.values) for shown in maps]
    yield Text(_CAPTIONS[maps[0].kind], style="dim")
    yield Text()
    # One map a layer would stand in a column of its own: let them share lines.
    in_line = per_layer if per_layer > 1 else len(maps)
    yield from attention_view.maps_grid(named, in_line, scale_of(maps), shading, width)


def _short_name(study: AttentionStudy, shown: ChosenMap) -> str:
    if shown.head is None:
        return f"layer {shown.layer}"
    one = study.roles.of(shown.layer or 0, shown.head)
    role = one.role.removesuffix(" token") if one and one.role else ""
    return f"{shown.layer}.{shown.head} {role}".rstrip()


def _looked_at(
    study: AttentionStudy,
    chosen: ChosenMaps,
    position: int | None,
    top: int,
    shading: Shading,
    width: int,
) -> Iterator[RenderableType]:
    ascii_only = shading == "ascii"
    tokens = study.maps.tokens
    scale = scale_of(chosen.maps)
    unit = "percent of its attention" if scale.quantity == "weight" else "weight x value norm"
    labels = [token_label(token, ascii_only) for token in tokens]
    if position is None:
        for shown in chosen.maps:
            yield Text(f"What each token looks at in {map_name(shown)} ({unit})", "bold")
            rows = [
                (
                    f"{at} {cut_label(label, 12, ascii_only)}",
                    most_looked_at(shown.values, tokens, at, top),
                )
                for at, label in enumerate(labels)
            ]
            yield attention_view.looked_at_table(rows, scale, shading, top, "token")
        return
    title = f"What token {position}, {labels[position]}, looks at in"
    looked = [most_looked_at(shown.values, tokens, position, top) for shown in chosen.maps]
    if len(chosen.maps) == 1:
        yield Text(f"{title} {map_name(chosen.maps[0])}", "bold")
        yield from attention_view.looked_at_bars(looked[0], scale, shading, width)
    else:
        yield Text(f"{title} each head ({unit})", "bold")
        names = [_short_name(study, shown) for shown in chosen.maps]
        rows = list(zip(names, looked, strict=True))
        yield attention_view.looked_at_table(rows, scale, shading, top, "head")
