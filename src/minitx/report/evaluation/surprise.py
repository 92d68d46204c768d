"""Passages with each token coloured by its loss, or marked below where there is no colour."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.cells import cell_len
from rich.text import Text

from minitx.evaluation.breakdown import SurprisingText
from minitx.report.terminal.heatmap import Scale, Shading
from minitx.report.terminal.printable import cut_label, text_label

_MARKS = {"blocks": " ░▒▓█", "ascii": " .-+#"}
_FROM = (1.0, 2.0, 4.0, 7.0)
LOSS_SCALE = Scale(10.0, "norm")
"""Colours of losses in nats; from 10 on a token has the last."""

LEGEND_LOSSES = (0.0, 1.0, 2.5, 5.0, 7.5, 10.0)

_INDENT = 8
_LONGEST_LABEL = 24


def passage_lines(passages: Sequence[SurprisingText], shading: Shading, width: int) -> list[Text]:
    """The passages, the worst first: loss, then the text; the legend comes last."""
    lines: list[Text] = []
    for passage in passages:
        for number, (text, marks) in enumerate(_wrapped(passage, shading, width - _INDENT)):
            head = f"{passage.loss:6.2f}  " if number == 0 else " " * _INDENT
            lines.append(Text().append(head, "dim").append_text(text))
            if marks.plain.strip():
                lines.append(Text(" " * _INDENT).append_text(marks))
    return [*lines, _legend(shading)] if passages else []


def _wrapped(passage: SurprisingText, shading: Shading, width: int) -> Iterator[tuple[Text, Text]]:
    """Lines of text, each with the line of marks that goes below it."""
    ascii_only = shading == "ascii"
    text, marks = Text(), Text()
    for token, loss in zip(passage.tokens, passage.losses, strict=True):
        label = cut_label(text_label(token, ascii_only) or "?", _LONGEST_LABEL, ascii_only)
        size = cell_len(label)
        if text.cell_len + size > width and text.cell_len:
            yield text, marks
            text, marks = Text(), Text()
        if shading == "color":
            text.append(label, LOSS_SCALE.style(loss))
        else:
            text.append(label)
            marks.append(_MARKS[shading][sum(loss >= least for least in _FROM)] * size)
    yield text, marks


def _legend(shading: Shading) -> Text:
    legend = Text("loss of a token, nats  ", style="dim")
    if shading == "color":
        for loss in LEGEND_LOSSES:
            legend.append(f" {loss:g} ", f"not dim {LOSS_SCALE.style(loss)}")
        return legend
    for mark, least in zip(_MARKS[shading][1:], _FROM, strict=True):
        legend.append(f"{mark}{mark}", "not dim").append(f" {least:g}+  ")
    legend.rstrip()
    return legend
