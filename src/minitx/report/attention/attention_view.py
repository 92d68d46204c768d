"""What `minitx attn` shows besides the maps: heads and their roles, tokens, lens, ablation, mask.

Each function lays out what the inspection found, for a width and a kind of shading.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from minitx.inspection.ablation import Ablation
from minitx.inspection.attention_maps import Looked
from minitx.inspection.head_roles import HeadRole, HeadRoles
from minitx.inspection.logit_lens import LogitLens
from minitx.inspection.mask_check import MaskCheck
from minitx.inspection.roles import HEAD_ROLES
from minitx.report.terminal.heatmap import FloatArray, Scale, Shading, small_map
from minitx.report.terminal.tables import table
from minitx.report.terminal.token_labels import cut_label, pad_label, token_label

_BAD = "bold red"
_TOO_SHORT = "The context is too short to tell the roles of the heads."


def heads_overview(roles: HeadRoles, chosen: tuple[int | None, int | None], width: int) -> Text:
    """All heads in rows of layers: each with its role and that role's score in percent."""
    if not roles.heads:
        return Text(_TOO_SHORT, style="dim")
    n_layers = 1 + max(one.layer for one in roles.heads)
    n_heads = 1 + max(one.head for one in roles.heads)
    cell = max(8, 2 + max(cell_len(_brief(one)) for one in roles.heads))
    margin = len(f"layer {n_layers - 1}") + 2
    columns = _balanced(n_heads, max(1, (width - margin) // cell))
    lines = []
    for start in range(0, n_heads, columns):
        shown = range(start, min(start + columns, n_heads))
        header = " " * margin + "".join(f"{f'head {head}':<{cell}}" for head in shown)
        lines.append(Text(header.rstrip(), style="dim"))
        for layer in range(n_layers):
            line = Text().append(f"{f'layer {layer}':<{margin}}", "dim")
            for head in shown:
                one = roles.heads[layer * n_heads + head]
                brief = _brief(one)
                style = "bold reverse" if (layer, head) == chosen else "" if one.role else "dim"
                line.append(brief, style).append(" " * (cell - len(brief)))
            line.rstrip()
            lines.append(line)
    return Text("\n").join(lines)


def _brief(one: HeadRole) -> str:
    if one.role is None:
        return "-"
    return f"{HEAD_ROLES.get(one.role).short_name} {100 * one.scores[one.role].score:.0f}"


def _balanced(count: int, most: int) -> int:
    """Columns for `count` things, at most `most`, so that all lines are about equally long."""
    return math.ceil(count / math.ceil(count / most))


def roles_table(roles: HeadRoles, ablation: Ablation | None = None) -> RenderableType:
    """Every head with every score and its control, in percent; the named role stands out.

    A control that is the same for all heads stands once, in the last row.
    """
    if not roles.heads:
        return Text(_TOO_SHORT, style="dim")
    measured = roles.measured
    controls = {
        role: {f"{100 * one.scores[role].control:.0f}" for one in roles.heads} for role in measured
    }
    shared = {role: values.pop() for role, values in controls.items() if len(values) == 1}
    names = ["head", "role", *(HEAD_ROLES.get(role).column for role in measured)]
    if ablation is not None:
        names.append("loss\nchange")
    made = table(names, numbers=range(2, len(names)), padding=(0, 1, 0, 0))
    for head in roles.heads:
        role_name = HEAD_ROLES.get(head.role).short_name if head.role else "-"
        scores = (_score(head, role, with_control=role not in shared) for role in measured)
        cells = [Text(f"{head.layer}.{head.head}"), Text(role_name), *scores]
        if ablation is not None:
            without = ablation.of(head.layer, head.head)
            cells.append(Text(f"{without.loss_change:+.4f}" if without else ""))
        made.add_row(*cells)
    made.add_section()
    last_row = ["control", *(shared.get(role, "") for role in measured)]
    made.add_row("", *(Text(control, "dim") for control in last_row))
    note = (
        "Scores in percent. The control, in the last row or after a slash, is the score of a head "
        f"without the role. Columns: {', '.join(measured)}. Measured on {roles.measured_on}."
    )
    parts: list[RenderableType] = [made, Text(note, style="dim")]
    if ablation is not None:
        parts.append(Text(_ablation_note(ablation), style="dim"))
    return Group(*parts)


def _score(one: HeadRole, role: str, with_control: bool) -> Text:
    found = one.scores[role]
    text = Text().append(f"{100 * found.score:.0f}", "bold" if role == one.role else "")
    return text.append(f"/{100 * found.control:.0f}", "dim") if with_control else text


def looked_at_table(
    rows: Sequence[tuple[str, Sequence[Looked]]],
    scale: Scale,
    shading: Shading,
    count: int,
    first_header: str,
) -> Table:
    """What tokens (or one token in several heads) looked at most: a row each, strongest first."""
    ascii_only = shading == "ascii"

    def cell(looked: Looked) -> Text:
        label = cut_label(token_label(looked.token, ascii_only), 10, ascii_only)
        text = Text().append(f"{looked.position} ", "dim").append(label, "bold")
        return text.append(f" {scale.number(looked.value) or '0'}")

    return table(
        [first_header, *(f"{rank + 1}." for rank in range(count))],
        [(Text(name), *map(cell, looked)) for name, looked in rows],
        padding=(0, 1),
    )


def looked_at_bars(
    looked: Sequence[Looked], scale: Scale, shading: Shading, width: int
) -> list[Text]:
    """What one token looked at most, as bars: position, token, how much."""
    ascii_only = shading == "ascii"
    labels = [token_label(one.token, ascii_only) for one in looked]
    label_width = min(16, max(map(cell_len, labels), default=1))
    room = max(8, min(40, width - label_width - 18))
    lines = []
    for one, label in zip(looked, labels, strict=True):
        shown = pad_label(cut_label(label, label_width, ascii_only), label_width)
        line = Text().append(f"{one.position:>6} ", "dim").append(shown)
        length = max(round(scale.part(one.value) * room), 1 if one.value > 0 else 0)
        line.append(f" {scale.number(one.value) or '0':>4}")
        line.append(" %  " if scale.quantity == "weight" else "  ")
        lines.append(line.append(("=" if ascii_only else "━") * length, "cyan"))
    return lines


def maps_grid(
    maps: Sequence[tuple[str, FloatArray]],
    per_layer: int,
    scale: Scale,
    shading: Shading,
    width: int,
) -> list[Text]:
    """Small maps side by side, each (seq, seq) under its name; a layer starts on a new line."""
    gap, least, most = 2, 10, 24
    columns = _balanced(per_layer, max(1, (width + gap) // (least + gap)))
    side = max(2, min(most, (width + gap) // columns - gap))
    lines: list[Text] = []
    for start in range(0, len(maps), per_layer):
        layer = maps[start : start + per_layer]
        for first in range(0, len(layer), columns):
            block = layer[first : first + columns]
            names = [cut_label(name, side, shading == "ascii") for name, _ in block]
            header = "".join(pad_label(name, side + gap) for name in names)
            lines.append(Text(header.rstrip(), style="dim"))
            drawn = [small_map(values, side, shading, scale) for _, values in block]
            for row in range(max(map(len, drawn))):
                line = Text()
                for picture in drawn:
                    spots = picture[row] if row < len(picture) else Text()
                    line.append_text(spots).append(" " * (side + gap - spots.cell_len))
                line.rstrip()
                lines.append(line)
            lines.append(Text())
    return lines


def lens_table(lens: LogitLens, position: int, shading: Shading) -> RenderableType:
    """The logit lens: loss by layer, and what each layer would say after the token at `position`.

    Ids whose text the lens does not have are shown as numbers.
    """
    ascii_only = shading == "ascii"
    here = token_label(lens.tokens[position], ascii_only) if lens.tokens else ""
    following = lens.tokens[position + 1] if position + 1 < len(lens.tokens) else None
    names = ["after"]
    if len(lens.loss):
        names.append("loss")
    if following is not None:
        label = cut_label(token_label(following, ascii_only), 10, ascii_only)
        names.append(f"next: {label}")
    numbers = range(1, len(names))
    names.append(f"likeliest after token {position}" + (f", {here}" if here else ""))
    made = table(names, numbers=numbers, padding=(0, 1))
    for layer, name in enumerate(lens.names):
        guesses = Text()
        likeliest = lens.top_ids[layer, position], lens.top_probabilities[layer, position]
        for token, probability in zip(*likeliest, strict=True):
            piece = lens.pieces.get(int(token), str(token))
            label = cut_label(token_label(piece, ascii_only), 10, ascii_only)
            guesses.append(label, "bold green" if piece == following else "bold")
            guesses.append(f" {100 * probability:.0f}  ", "dim")
        cells = [Text(name)]
        if len(lens.loss):
            cells.append(Text(f"{lens.loss[layer]:.3f}"))
        if following is not None:
            cells.append(Text(f"{100 * lens.next_probability[layer, position]:.1f} %"))
        made.add_row(*cells, guesses)
    note = (
        "The residual stream read with the model's last norm and output head; probabilities in "
        "percent. Loss: mean over this text, nats per token."
    )
    return Group(made, Text(note, style="dim"))


def ablation_table(ablation: Ablation, width: int, shading: Shading) -> RenderableType:
    """Heads by what the loss gains without them, the dearest first, with bars."""
    bar_character, plus_minus = ("=", "+-") if shading == "ascii" else ("━", "±")
    heads = sorted(ablation.heads, key=lambda one: -one.loss_change)
    largest = max(abs(one.loss_change) for one in heads) or 1.0
    room = max(8, min(40, width - 34))
    lines = [Text(f"{'head':<8}{'loss change':>12}", style="dim")]
    for one in heads:
        line = Text(f"{f'{one.layer}.{one.head}':<8}{one.loss_change:>+12.4f}")
        error = f" {plus_minus}{one.standard_error:.4f}" if one.standard_error is not None else ""
        line.append(f"{error:<10}  ", "dim")
        bar = bar_character * round(abs(one.loss_change) / largest * room)
        line.append(bar, "cyan" if one.loss_change > 0 else "yellow")
        line.rstrip()
        lines.append(line)
    lines += [Text(), Text(_ablation_note(ablation), style="dim")]
    return Text("\n").join(lines)


def _ablation_note(ablation: Ablation) -> str:
    return (
        f"Loss change: rise in nats per token when the head's output is zeroed; loss with all "
        f"heads {ablation.loss:.4f} on {ablation.measured_on}."
    )


def mask_lines(check: MaskCheck, shading: Shading) -> list[Text]:
    """The mask check: a line for each way through the model, then the verdict."""
    if not check.paths:
        return [Text("Nothing to check: a context or vocabulary of one has no future to change.")]
    yes, no = ("ok  ", "LEAK") if shading == "ascii" else ("✓", "✗")
    lines = []
    for path in check.paths:
        leak = path.leak
        line = Text().append(f"{no} ", _BAD) if leak else Text().append(f"{yes} ", "green")
        line.append(path.path)
        lines.append(line.append(f"  {path.cuts} cuts, {path.logits:,} logits compared", "dim"))
        if leak is not None:
            lines.append(Text(
                f"  enters at {leak.place}: changing the tokens after {leak.cut} moved the logits "
                f"of position {leak.position}, by up to {leak.largest_change:.3g}", "red",
            ))  # fmt: skip
    verdict = (
        Text(f"No earlier logit moved, to the bit, on texts of {check.length} tokens.", "green")
        if check.passed
        else Text("The future leaks: the model can see tokens that it is asked to predict.", _BAD)
    )
    return [*lines, Text(), verdict]
