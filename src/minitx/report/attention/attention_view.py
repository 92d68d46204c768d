"""What `minitx attn` shows besides the maps: heads and their roles, tokens, lens, ablation, mask.

Each function lays out what the inspection found, for a width and a kind of shading.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.text import Text

from minitx.evaluation.arrays import Float32Array
from minitx.inspection.ablation import Ablation
from minitx.inspection.head_roles import HeadRole, HeadRoles
from minitx.inspection.logit_lens import LogitLens
from minitx.inspection.mask_check import MaskCheck
from minitx.inspection.roles import HEAD_ROLES
from minitx.report.terminal.heatmap import Scale, Shading, small_map
from minitx.report.terminal.printable import cut_label, token_label
from minitx.report.terminal.tables import table

_BAD = "bold red"
_TOO_SHORT = "The context is too short to tell the roles of the heads."


def heads_overview(
    roles: HeadRoles, chosen: tuple[int | None, int | None], width: int
) -> RenderableType:
    """All heads in rows of layers: each with its role and that role's score in percent."""
    if not roles.heads:
        return Text(_TOO_SHORT, style="dim")
    n_layers = 1 + max(head.layer for head in roles.heads)
    n_heads = 1 + max(head.head for head in roles.heads)
    cell_width = max(6, *(cell_len(_brief(head)) for head in roles.heads))
    most = max(1, (width - len(f"layer {n_layers - 1}  ")) // (cell_width + 2))
    columns = _balanced(n_heads, most)
    parts = []
    for start in range(0, n_heads, columns):
        shown = range(start, min(start + columns, n_heads))
        names = ["", *(f"head {head}" for head in shown)]
        made = table(names, box=None, padding=(0, 2, 0, 0), header_style="dim")
        for column in made.columns[1:]:
            column.width = cell_width
        for layer in range(n_layers):
            cells = [Text(f"layer {layer}", "dim")]
            for head in roles.heads[layer * n_heads + start :][: len(shown)]:
                style = "" if head.role else "dim"
                if (head.layer, head.head) == chosen:
                    style = "bold reverse"
                cells.append(Text().append(_brief(head), style))
            made.add_row(*cells)
        parts.append(made)
    return Group(*parts)


def _brief(head: HeadRole) -> str:
    if head.role is None:
        return "-"
    return f"{HEAD_ROLES.get(head.role).short_name} {100 * head.scores[head.role].score:.0f}"


def _balanced(count: int, most: int) -> int:
    """Columns for `count` things, at most `most`, so that all lines are about equally long."""
    return math.ceil(count / math.ceil(count / most))


def roles_table(roles: HeadRoles, ablation: Ablation | None = None) -> RenderableType:
    """Every head with every score and its control, in percent; the named role stands out.

    A control that is the same for all heads stands once, in the last row.
    """
    if not roles.heads:
        return Text(_TOO_SHORT, style="dim")
    columns: dict[str, list[RenderableType]] = {
        "head": [f"{head.layer}.{head.head}" for head in roles.heads],
        "role": [
            HEAD_ROLES.get(head.role).short_name if head.role else "-" for head in roles.heads
        ],
    }
    last_row = ["", "control"]
    for role in roles.measured:
        controls = {f"{100 * head.scores[role].control:.0f}" for head in roles.heads}
        is_shared = len(controls) == 1
        last_row.append(controls.pop() if is_shared else "")
        columns[HEAD_ROLES.get(role).column] = [
            _score(head, role, with_control=not is_shared) for head in roles.heads
        ]
    if ablation is not None:
        without = [ablation.of(head.layer, head.head) for head in roles.heads]
        columns["loss\nchange"] = [f"{off.loss_change:+.4f}" if off else "" for off in without]
    rows = zip(*columns.values(), strict=True)
    made = table(list(columns), rows, numbers=range(2, len(columns)), padding=(0, 1, 0, 0))
    made.add_section()
    made.add_row(*(Text(control, "dim") for control in last_row))
    note = (
        "Scores in percent. The control, in the last row or after a slash, is the score of a head "
        f"without the role. Columns: {', '.join(roles.measured)}. Measured on {roles.measured_on}."
    )
    parts: list[RenderableType] = [made, Text(note, style="dim")]
    if ablation is not None:
        parts.append(Text(_ablation_note(ablation), style="dim"))
    return Group(*parts)


def _score(head: HeadRole, role: str, with_control: bool) -> Text:
    score = head.scores[role]
    text = Text().append(f"{100 * score.score:.0f}", "bold" if role == head.role else "")
    return text.append(f"/{100 * score.control:.0f}", "dim") if with_control else text


def maps_grid(
    maps: Sequence[tuple[str, Float32Array]],
    per_layer: int,
    scale: Scale,
    shading: Shading,
    width: int,
) -> Iterator[RenderableType]:
    """Small maps side by side, each (seq, seq) under its name, and their scale.

    A layer starts on a new line.
    """
    gap, least, most = 2, 10, 24
    columns = _balanced(per_layer, max(1, (width + gap) // (least + gap)))
    side = max(2, min(most, (width + gap) // columns - gap))
    for start in range(0, len(maps), per_layer):
        layer = maps[start : start + per_layer]
        for first in range(0, len(layer), columns):
            block = layer[first : first + columns]
            names = [cut_label(name, side, shading == "ascii") for name, _ in block]
            made = table(names, box=None, padding=(0, gap, 0, 0), header_style="dim")
            for column in made.columns:
                column.width = side
            made.add_row(
                *(Text("\n").join(small_map(values, side, shading, scale)) for _, values in block)
            )
            yield made
            yield Text()
    n_tokens = max(len(values) for _, values in maps)
    if n_tokens > side:
        most = math.ceil(n_tokens / side)
        yield Text(f"Each spot is the largest value of up to {most:,} of {n_tokens:,} tokens.")
    yield scale.legend(shading)


def lens_table(lens: LogitLens, position: int, shading: Shading) -> RenderableType:
    """The logit lens: loss by layer, and what each layer would say after the token at `position`.

    Ids whose text the lens does not have are shown as numbers.
    """
    ascii_only = shading == "ascii"
    here = token_label(lens.tokens[position], ascii_only) if lens.tokens else ""
    following = lens.tokens[position + 1] if position + 1 < len(lens.tokens) else None
    columns: dict[str, Sequence[RenderableType]] = {"after": lens.names}
    if len(lens.loss):
        columns["loss"] = [f"{loss:.3f}" for loss in lens.loss]
    if following is not None:
        label = cut_label(token_label(following, ascii_only), 10, ascii_only)
        chances = 100 * lens.next_probability[:, position]
        columns[f"next: {label}"] = [f"{chance:.1f} %" for chance in chances]
    numbers = range(1, len(columns))
    likeliest = []
    for ids, probabilities in zip(
        lens.top_ids[:, position], lens.top_probabilities[:, position], strict=True
    ):
        guesses = Text()
        for token, probability in zip(ids, probabilities, strict=True):
            piece = lens.piece(int(token))
            label = cut_label(token_label(piece, ascii_only), 10, ascii_only)
            guesses.append(label, "bold green" if piece == following else "bold")
            guesses.append(f" {100 * probability:.0f}  ", "dim")
        likeliest.append(guesses)
    columns[f"likeliest after token {position}" + (f", {here}" if here else "")] = likeliest
    made = table(list(columns), zip(*columns.values(), strict=True), numbers, padding=(0, 1))
    note = (
        "The residual stream read with the model's last norm and output head; probabilities in "
        "percent. Loss: mean over this text, nats per token."
    )
    return Group(made, Text(note, style="dim"))


def ablation_table(ablation: Ablation, width: int, shading: Shading) -> RenderableType:
    """Heads by what the loss gains without them, the dearest first, with bars."""
    bar_character, plus_minus = ("=", "+-") if shading == "ascii" else ("━", "±")
    heads = sorted(ablation.heads, key=lambda head: -head.loss_change)
    largest = max(abs(head.loss_change) for head in heads) or 1.0
    room = max(8, min(40, width - 34))
    lines = [Text(f"{'head':<8}{'loss change':>12}", style="dim")]
    for off in heads:
        line = Text(f"{f'{off.layer}.{off.head}':<8}{off.loss_change:>+12.4f}")
        error = f" {plus_minus}{off.standard_error:.4f}" if off.standard_error is not None else ""
        line.append(f"{error:<10}  ", "dim")
        bar = bar_character * round(abs(off.loss_change) / largest * room)
        line.append(bar, "cyan" if off.loss_change > 0 else "yellow")
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
