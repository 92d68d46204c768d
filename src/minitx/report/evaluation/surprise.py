"""Passages with each token coloured by its loss, or marked below where there is no colour."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.cells import cell_len
from rich.text import Text

from minitx.evaluation.holdout_figures import SurprisingText
from minitx.report.terminal.heatmap import Scale, Shading
from minitx.report.terminal.token_labels import cut_label, text_label

_MARKS = {"blocks": " ░▒▓█", "ascii": " .-+#"}
_FROM = (1.0, 2.0, 4.0, 7.0)
TOP_LOSS = 10.0
"""Loss, in nats, from which on a token has the last colour."""

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
    text, marks = Text(), Text()
    for token, loss in zip(passage.tokens, passage.losses, strict=True):
        label = cut_label(
            text_label(token, shading == "ascii") or "?", _LONGEST_LABEL, shading == "ascii"
        )
        size = cell_len(label)
        if text.cell_len + size > width and text.cell_len:
            yield text, marks
            text, marks = Text(), Text()
        if shading == "color":
            scale = _scale()
            text.append(label, f"{scale.ink(loss)} on {scale.color(loss)}")
        else:
            text.append(label)
            marks.append(_mark(loss, shading) * size)
    yield text, marks


def _scale() -> Scale:
    return Scale(TOP_LOSS, "norm")


def _mark(loss: float, shading: Shading) -> str:
    return _MARKS["ascii" if shading == "ascii" else "blocks"][sum(loss >= x for x in _FROM)]


def _legend(shading: Shading) -> Text:
    legend = Text("loss of a token, nats  ", style="dim")
    if shading == "color":
        scale = _scale()
        for value in (0.0, 1.0, 2.5, 5.0, 7.5, 10.0):
            legend.append(f" {value:g} ", f"not dim {scale.ink(value)} on {scale.color(value)}")
        return legend
    marks = _MARKS["ascii" if shading == "ascii" else "blocks"]
    for mark, least in zip(marks[1:], _FROM, strict=True):
        legend.append(f"{mark}{mark}", "not dim").append(f" {least:g}+  ")
    legend.rstrip()
    return legend
