"""Where an attention study goes: the terminal, a page, a picture, or arrays."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from minitx.config import AttentionRequest
from minitx.report.attention.attention_png import save_png
from minitx.report.attention.attention_screen import attention_screen, position_of
from minitx.report.pages.attention_page import study_page
from minitx.report.pages.templates import write_page
from minitx.report.terminal.heatmap import shading_for
from minitx.workflows.attend import AttentionStudy, choose_maps, save_maps


def print_study(study: AttentionStudy, request: AttentionRequest, ascii_only: bool) -> None:
    """Print what was asked for.

    Raises:
        BadInputError: there is no such layer, head or token; nothing was printed.
    """
    console = Console(highlight=False, soft_wrap=False)
    shading = "ascii" if ascii_only else shading_for(console)
    # All is measured before anything is printed, so that an error stands alone.
    for part in list(attention_screen(study, request, shading, console.width)):
        console.print(part)


def write_study(
    study: AttentionStudy,
    request: AttentionRequest,
    html: Path | None = None,
    png: Path | None = None,
    npz: Path | None = None,
) -> Iterator[Path]:
    """Write the files that are named, and give the name of each once it is there.

    Raises:
        BadInputError: there is no such layer or head, or a file can't be written.
    """
    # What can be refused is refused before a file is written.
    position_of(study, request)
    study.require_heads(request.layer, request.head)
    page = "" if html is None else study_page(study, request)
    if png is not None:
        chosen = choose_maps(study, request.kind, request.layer, request.head)
        save_png(chosen.maps, study.maps.tokens, png)
        yield png
    if npz is not None:
        save_maps(study, npz)
        yield npz
    if html is not None:
        write_page(page, html)
        yield html
