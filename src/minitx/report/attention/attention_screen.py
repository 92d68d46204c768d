"""What `minitx attn` prints: the map, what it is a map of, and the tables asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from minitx.config import AttentionRequest, MapKind
from minitx.inspection.attention_maps import Looked, most_looked_at, require_existing
from minitx.inspection.head_roles import HeadRole
from minitx.report.attention import attention_view
from minitx.report.attention.causes_view import attribution_table, causes_of, patching_tables
from minitx.report.attention.film_view import film_parts
from minitx.report.terminal.heatmap import Heatmap, Quantity, Scale, Shading
from minitx.report.terminal.printable import (
    cut_label,
    pad_label,
    printed_name,
    text_label,
    token_label,
)
from minitx.report.terminal.tables import table
from minitx.report.terminal.units import count
from minitx.workflows.attend import AttentionStudy, ChosenMap, choose_maps

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
    return _Screen(study, shading, width, shading == "ascii").parts(request)


def map_name(shown: ChosenMap) -> str:
    """What a map is a map of, in words."""
    if shown.kind == "average":
        layer = shown.layer
        return "mean of all heads" if layer is None else f"mean of layer {layer}'s heads"
    if shown.kind == "rollout":
        return f"rollout of layers 0 to {shown.layer}" if shown.layer else "rollout of layer 0"
    name = f"layer {shown.layer}, head {shown.head}"
    return f"{name}, value-weighted norms" if shown.kind == "norm" else name


def brief_name(shown: ChosenMap) -> str:
    """The same in few characters: the layer, or as `1.0` the layer and the head."""
    return f"layer {shown.layer}" if shown.head is None else f"{shown.layer}.{shown.head}"


def quantity_of(kind: MapKind) -> Quantity:
    """What the numbers of a kind of map are."""
    return "norm" if kind == "norm" else "weight"


def scale_of(maps: Sequence[ChosenMap]) -> Scale:
    """One scale for some maps of a kind: weights up to 1, norms up to the largest."""
    if maps[0].kind != "norm":
        return Scale(1.0)
    return Scale(max(float(shown.values.max()) for shown in maps) or 1.0, "norm")


@dataclass(frozen=True, eq=False)
class _Screen:
    """Lays out a study for a terminal."""

    study: AttentionStudy
    shading: Shading
    width: int
    ascii_only: bool

    def parts(self, request: AttentionRequest) -> Iterator[RenderableType]:
        study, shading = self.study, self.shading
        position = position_of(study, request)
        if not request.film:  # That has a text of its own.
            yield self._about()
            yield Text()
        if request.wants_map:
            maps, reason = choose_maps(study, request.kind, request.layer, request.head)
            if position is not None or request.top is not None:
                yield from self._looked_at(maps, position, request.top or 5)
            elif len(maps) == 1:
                yield from self._one_map(maps[0], reason)
            else:
                yield from self._grid(maps)
            if request.is_default:
                shown = maps[0]
                yield Text()
                yield Text(_OVERVIEW, style="bold")
                yield attention_view.heads_overview(
                    study.roles, (shown.layer, shown.head), self.width
                )
                yield Text()
                yield Text(_MORE, style="dim")
        if request.roles:
            ablation = study.ablation if request.ablate else None
            yield attention_view.roles_table(study.roles, ablation)
        elif request.ablate and study.ablation is not None:
            yield attention_view.ablation_table(study.ablation, self.width, shading)
        elif request.ablate:
            yield Text("Nothing to score: the text has a single token.", style="dim")
        if request.lens:
            last = len(study.ids) - 1
            shown_position = last if position is None else position
            yield attention_view.lens_table(study.lens, shown_position, shading)
        causes = causes_of(study, request, position)
        if causes.attribution is not None:
            yield attribution_table(causes.attribution, self.width, shading)
        if causes.patching is not None:
            yield from patching_tables(causes, shading)
        if request.film:
            yield from film_parts(study.film, request, shading, self.width)
        if request.check_mask:
            yield from attention_view.mask_lines(study.mask_check, shading)

    def _about(self) -> Text:
        study = self.study
        config = study.model.config
        shape = f"  {config.family}, {config.n_layers} layers of {config.n_heads} heads\n"
        source = f", {study.prompt_from}" if study.prompt_from else ""
        name = f"text of {count(len(study.ids))} tokens{source}: "
        prompt = text_label(study.prompt, self.ascii_only).strip()
        quoted = cut_label(prompt, max(10, self.width - len(name)), self.ascii_only)
        text = Text(printed_name(study.checkpoint), style="bold").append(shape, "not bold")
        return text.append(name, "not bold dim").append(quoted, "not bold")

    def _one_map(self, shown: ChosenMap, reason: str | None) -> Iterator[RenderableType]:
        title = Text(map_name(shown), style="bold")
        named = self._named_head(shown)
        if named is not None and named.role is not None:
            score = named.scores[named.role]
            title.append(f"  {named.role} {100 * score.score:.0f} %", "not bold")
            title.append(f" (control {100 * score.control:.0f} %)", "not bold dim")
        yield title
        if reason:
            yield Text(f"Shown because it is {reason}.", style="dim")
        yield Text(_CAPTIONS[shown.kind], style="dim")
        yield Text()
        yield Heatmap(shown.values, self.study.maps.tokens, quantity_of(shown.kind), self.shading)

    def _grid(self, maps: Sequence[ChosenMap]) -> Iterator[RenderableType]:
        per_layer = sum(shown.layer == maps[0].layer for shown in maps)
        named = [(self._short_name(shown), shown.values) for shown in maps]
        yield Text(_CAPTIONS[maps[0].kind], style="dim")
        yield Text()
        # One map a layer would stand in a column of its own: let them share lines.
        in_line = per_layer if per_layer > 1 else len(maps)
        scale = scale_of(maps)
        yield from attention_view.maps_grid(named, in_line, scale, self.shading, self.width)

    def _short_name(self, shown: ChosenMap) -> str:
        named = self._named_head(shown)
        role = named.role.removesuffix(" token") if named and named.role else ""
        return f"{brief_name(shown)} {role}".rstrip()

    def _named_head(self, shown: ChosenMap) -> HeadRole | None:
        if shown.layer is None or shown.head is None:
            return None
        return self.study.roles.of(shown.layer, shown.head)

    def _looked_at(
        self, maps: Sequence[ChosenMap], position: int | None, top: int
    ) -> Iterator[RenderableType]:
        tokens = self.study.maps.tokens
        scale = scale_of(maps)
        unit = "percent of its attention" if scale.quantity == "weight" else "weight x value norm"
        headers = [f"{rank}." for rank in range(1, top + 1)]
        if position is None:
            for shown in maps:
                yield Text(f"What each token looks at in {map_name(shown)} ({unit})", "bold")
                rows = [
                    (f"{i} {self._label(token, 12)}", most_looked_at(shown.values, tokens, i, top))
                    for i, token in enumerate(tokens)
                ]
                yield self._looked_at_table(["token", *headers], rows, scale)
            return
        label = token_label(tokens[position], self.ascii_only)
        title = f"What token {position}, {label}, looks at in"
        looked = [most_looked_at(shown.values, tokens, position, top) for shown in maps]
        if len(maps) == 1:
            yield Text(f"{title} {map_name(maps[0])}", "bold")
            yield from self._looked_at_bars(looked[0], scale)
        else:
            yield Text(f"{title} each head ({unit})", "bold")
            rows = list(zip(map(self._short_name, maps), looked, strict=True))
            yield self._looked_at_table(["head", *headers], rows, scale)

    def _label(self, token: str, width: int) -> str:
        return cut_label(token_label(token, self.ascii_only), width, self.ascii_only)

    def _looked_at_table(
        self, headers: Sequence[str], rows: Sequence[tuple[str, list[Looked]]], scale: Scale
    ) -> Table:
        """What was looked at most: a named row each, the strongest first."""

        def cell(looked: Looked) -> Text:
            text = Text().append(f"{looked.position} ", "dim")
            text.append(self._label(looked.token, 10), "bold")
            return text.append(f" {scale.number(looked.value) or '0'}")

        cells = [(Text(name), *map(cell, looked)) for name, looked in rows]
        return table(headers, cells, padding=(0, 1))

    def _looked_at_bars(self, looked: Sequence[Looked], scale: Scale) -> Iterator[Text]:
        """What one token looked at most, as bars: position, token, how much."""
        labels = [self._label(seen.token, 16) for seen in looked]
        label_width = max(map(cell_len, labels), default=1)
        room = max(8, min(40, self.width - label_width - 18))
        for seen, label in zip(looked, labels, strict=True):
            shown = pad_label(label, label_width)
            line = Text().append(f"{seen.position:>6} ", "dim").append(shown)
            line.append(f" {scale.number(seen.value) or '0':>4}")
            line.append(" %  " if scale.quantity == "weight" else "  ")
            length = max(round(scale.part(seen.value) * room), 1 if seen.value > 0 else 0)
            yield line.append(("=" if self.ascii_only else "━") * length, "cyan")
