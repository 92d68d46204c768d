"""The film of a run, for a terminal, as JSON, and as grids of a picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from rich.console import RenderableType
from rich.text import Text

from minitx.config import AttentionRequest
from minitx.inspection.film import Film, Moment
from minitx.inspection.head_roles import NAMED_FROM
from minitx.inspection.roles import HEAD_ROLES, all_roles
from minitx.report.attention.attention_view import maps_grid
from minitx.report.attention.causes_view import Grid
from minitx.report.terminal.heatmap import Heatmap, Scale, Shading
from minitx.report.terminal.printable import cut_label, text_label, token_label
from minitx.report.terminal.tables import table

_SHOWN = 6
"""Moments that have a row or a map."""

_ROLE_WIDTH = 30


def head_of(film: Film, request: AttentionRequest) -> tuple[int, int] | None:
    """The head whose maps are shown: what is asked for, else the strongest at induction, or at
    its role; None where no attention was kept."""
    last = film.moments[-1]
    if not last.roles:
        return None
    layers = [request.layer] if isinstance(request.layer, int) else range(last.layers)
    heads = [request.head] if isinstance(request.head, int) else range(last.heads)
    ranks = list(all_roles())
    asked = [layer * last.heads + head for layer in layers for head in heads]

    def telling(index: int) -> tuple[int, float]:
        role = last.roles[index]
        return -ranks.index(role) if role in ranks else -len(ranks), last.strengths[index]

    return divmod(max(asked, key=telling), last.heads)


def film_parts(
    film: Film, request: AttentionRequest, shading: Shading, width: int
) -> Iterator[RenderableType]:
    """The roles through the run, then losses, samples and lens at a few moments, and maps.

    A `moment` that is asked for has its map in full instead.
    """
    ascii_only = shading == "ascii"
    chosen = head_of(film, request)
    shown = film.spread(_SHOWN) if request.moment is None else [film.at(request.moment)]
    first, last = film.moments[0], film.moments[-1]
    count = len(film.moments)
    title = Text(f"The film: {count:,} moment{'s' if count > 1 else ''}", style="bold")
    yield title.append(f", from step {first.step:,} to {last.step:,}", "not bold")
    prompt = text_label("".join(last.tokens), ascii_only)
    yield Text(f"reading: {cut_label(prompt, width - 9, ascii_only)}", style="dim")
    if last.roles:
        yield Text("\nRole of each head (layer.head), a moment a column", style="bold")
        yield from _timeline(film, width, ascii_only)
        yield Text(induction_told(film))
    yield Text("\nLoss by class of token, nats per token", style="bold")
    columns, rows = loss_rows(film, shown)
    yield table(columns, rows, range(len(columns)), padding=(0, 1))
    yield Text("What it would write next, the likeliest token each time", style="bold")
    room = width - 12
    rows = [
        [f"{each.step:,}", cut_label(text_label(each.sample, ascii_only), room, ascii_only)]
        for each in shown
    ]
    yield table(["step", "text"], rows, [0], padding=(0, 1))
    if last.lens:
        yield from _lens(shown, ascii_only)
    if chosen is not None:
        yield from _maps(shown, chosen, request, shading, width)


def loss_rows(film: Film, moments: Sequence[Moment]) -> tuple[list[str], list[list[str]]]:
    """Names of columns and a row for each moment: step, loss, and loss by class."""
    names = list(film.moments[-1].classes)
    return ["step", "all", *names], [
        [f"{each.step:,}", *(f"{loss:.2f}" for loss in (each.loss, *_losses(each, names)))]
        for each in moments
    ]


def induction_told(film: Film) -> str:
    """When induction appeared, in a sentence."""
    since, last = film.induction_since, film.moments[-1]
    top = last if since else max(film.moments, key=lambda each: max(each.induction, default=0.0))
    if not top.induction:
        return "Induction was not measured: the context is too short to repeat a text in it."
    best = int(np.argmax(top.induction))
    layer, head = divmod(best, top.heads)
    strength = f"{100 * max(0.0, top.induction[best]):.0f} %"
    if not top.induction[best] >= NAMED_FROM:  # NaN of a model that broke, too.
        named = f"{100 * NAMED_FROM:.0f} %"
        return f"No head did induction at any moment: the strongest had {strength}, under {named}."
    most = f"head {layer}.{head} has most of it, {strength}"
    if since is None:
        return f"Induction came, and is gone at the end: at step {top.step:,} {most}."
    return f"Induction is there from step {since.step:,} on; at the end {most}."


def _timeline(film: Film, width: int, ascii_only: bool) -> Iterator[RenderableType]:
    nothing = "." if ascii_only else "·"
    letters: dict[str | None, str] = {None: nothing}
    for name in all_roles():
        free = [c for c in name if c.isalpha() and c not in letters.values()]
        letters[name] = (free or ["?"])[0]
    last, moments = film.moments[-1], film.spread(max(8, width - _ROLE_WIDTH))
    label = max(4, len(f"{last.layers - 1}.{last.heads - 1}") + 1)
    for index, role in enumerate(last.roles):
        layer, head = divmod(index, last.heads)
        seen = [each.roles[index] if index < len(each.roles) else None for each in moments]
        line = Text(f"{f'{layer}.{head}':<{label}}")
        for one in seen:
            style = "" if one else "dim"
            line.append(letters.get(one, "?"), "cyan" if one == "induction" else style)
        if role is not None:
            short = HEAD_ROLES.get(role).short_name if role in all_roles() else role
            line.append(f"  {short} {100 * last.strengths[index]:.0f}")
            since = len(seen) - next((i for i, r in enumerate(seen[::-1]) if r != role), len(seen))
            line.append(f", from {moments[since].step:,}", "dim")
        yield line
    used = {role for each in moments for role in each.roles if role in letters}
    told = [f"{letter} {role}" for role, letter in letters.items() if role and role in used]
    yield Text(", ".join([*told, f"{nothing} none"]) + "; strength in percent.", style="dim")


def _losses(moment: Moment, names: Sequence[str]) -> list[float]:
    return [moment.classes.get(name, float("nan")) for name in names]


def _lens(shown: Sequence[Moment], ascii_only: bool) -> Iterator[RenderableType]:
    with_lens = [each for each in shown if each.lens]
    at = with_lens[-1].lens[-1]
    tokens = with_lens[-1].tokens
    names = [token_label(name, ascii_only) for name in (tokens[at.position], at.following)]
    yield Text(
        f"Logit lens after token {at.position}, {names[0]}: chance of {names[1]}, which follows, "
        "and the likeliest", style="bold",
    )  # fmt: skip
    rows = []
    for i in range(len(at.chances)):
        cells = []
        for each in with_lens:
            lens = each.lens[-1]
            piece = cut_label(token_label(lens.likeliest[i][0][0], ascii_only), 7, ascii_only)
            cells.append(f"{100 * lens.chances[i]:.0f} % {piece}")
        rows.append(["embedding" if i == 0 else f"layer {i - 1}", *cells])
    yield table(["after", *(f"{each.step:,}" for each in with_lens)], rows, padding=(0, 1))


def _maps(
    shown: Sequence[Moment], chosen: tuple[int, int], request: AttentionRequest, shading: Shading,
    width: int,
) -> Iterator[RenderableType]:  # fmt: skip
    last, name = shown[-1], f"Attention of layer {chosen[0]}, head {chosen[1]}"
    if request.moment is not None:
        yield Text(f"{name}, at step {shown[0].step:,}", style="bold")
        yield Heatmap(shown[0].map(*chosen), shown[0].tokens, shading=shading)
        return
    role = last.roles[chosen[0] * last.heads + chosen[1]]
    yield Text(f"{name}, {role or 'which has no role'} at the end", style="bold")
    yield Text()
    maps = [(f"step {each.step:,}", each.map(*chosen)) for each in shown]
    yield from maps_grid(maps, len(maps), Scale(1.0), shading, width)


def film_json(film: Film, request: AttentionRequest) -> dict[str, Any]:
    """As it stands in the JSON of a study: all moments, or the one that is asked for."""
    chosen, since = head_of(film, request), film.induction_since
    moments = film.moments if request.moment is None else [film.at(request.moment)]
    return {
        "induction_since": None if since is None else since.step,
        "layer": None if chosen is None else chosen[0],
        "head": None if chosen is None else chosen[1],
        "moments": [
            {
                **{key: value for key, value in each.to_line().items() if key not in _NOT_TOLD},
                "map": None if chosen is None else each.map(*chosen).tolist(),
            }
            for each in moments
        ],
    }


_NOT_TOLD = ("kind", "maps")


def film_grids(film: Film, request: AttentionRequest) -> Iterator[Grid]:
    """For a picture: strength of each head's last role through the run, losses, and maps."""
    last, chosen = film.moments[-1], head_of(film, request)
    moments = film.spread(24)
    steps = [f"{each.step:,}" for each in moments]
    if last.induction:
        names = [f"{i // last.heads}.{i % last.heads}" for i in range(len(last.induction))]
        values = np.array([each.induction for each in moments]).T
        yield Grid("Strength of induction, by head and step", names, steps, values, 1.0)
    names = list(last.classes)
    if names:
        values = np.array([_losses(each, names) for each in moments]).T
        yield Grid("Loss, nats per token", names, steps, values, float(np.nanmax(values)) or 1.0)
    if chosen is None:
        return
    for each in film.spread(3) if request.moment is None else [film.at(request.moment)]:
        tokens = [cut_label(token_label(token), 12) for token in each.tokens]
        title = f"Layer {chosen[0]}, head {chosen[1]}, at step {each.step:,}"
        yield Grid(title, tokens, tokens, each.map(*chosen).astype(np.float64), 1.0)
