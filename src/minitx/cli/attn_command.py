"""`minitx attn`: draw what a model looks at while it reads a text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, get_args

import typer

from minitx.cli.imports import many_imports
from minitx.errors import BadInputError

if TYPE_CHECKING:
    from minitx.report.attention.attention_screen import AttentionRequest
    from minitx.workflows.attend import AttentionStudy, Index, MapKind

_PAGE_PROMPT = 128


def attn(
    run: Annotated[
        Path | None,
        typer.Argument(help="Run or checkpoint directory; the newest run if left out."),
    ] = None,
    prompt: Annotated[
        str | None, typer.Option(help="Text to read; the beginning of the holdout if left out.")
    ] = None,
    layer: Annotated[str | None, typer.Option(metavar="N|all", help="Which layer, from 0.")] = None,
    head: Annotated[
        str | None, typer.Option(metavar="N|all", help="Which head, from 0; all draws a grid.")
    ] = None,
    average: Annotated[
        bool, typer.Option("--average", help="Mean over heads: of --layer, or of all layers.")
    ] = False,
    rollout: Annotated[
        bool, typer.Option("--rollout", help="Attention multiplied through the layers.")
    ] = False,
    norms: Annotated[
        bool, typer.Option("--norms", help="Weight times the norm of the value it fetches.")
    ] = False,
    token: Annotated[
        int | None, typer.Option(help="List what this token looked at (-1 is the last).")
    ] = None,
    top: Annotated[
        int | None, typer.Option(help="How many to list; without --token, for every token.")
    ] = None,
    roles: Annotated[
        bool, typer.Option("--roles", help="Table of all heads: roles, scores and controls.")
    ] = False,
    lens: Annotated[
        bool, typer.Option("--lens", help="Logit lens: what each layer would say next.")
    ] = False,
    ablate: Annotated[
        bool, typer.Option("--ablate", help="What the loss gains when each head is off.")
    ] = False,
    check_mask: Annotated[
        bool,
        typer.Option("--check-mask", help="Change future tokens; see that no past logit moves."),
    ] = False,
    html: Annotated[Path | None, typer.Option(help="Write a page to explore in a browser.")] = None,
    png: Annotated[Path | None, typer.Option(help="Write a picture (needs matplotlib).")] = None,
    npz: Annotated[Path | None, typer.Option(help="Write all maps as NumPy arrays.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    ascii_only: Annotated[bool, typer.Option("--ascii", help="Draw with ASCII alone.")] = False,
    checkpoint: Annotated[
        str, typer.Option(metavar="best|last", help="Which checkpoint of a run.")
    ] = "best",
    device: Annotated[
        str, typer.Option(help="Where to compute.", metavar="auto|cpu|cuda|mps")
    ] = "auto",
) -> None:
    """Draw what a model looks at: attention maps, head roles, logit lens, ablation.

    With nothing but a run: its most telling head on the beginning of the holdout, and the role of
    every head.
    """
    kind: MapKind = (
        "average" if average else "rollout" if rollout else "norm" if norms else "weight"
    )
    if average + rollout + norms > 1:
        raise BadInputError(
            "--average, --rollout and --norms each name a kind of map", "Give one of them"
        )
    if top is not None and top < 1:
        raise BadInputError(f"--top is {top}", "Choose 1 or more")

    with many_imports():
        from minitx.report.attention.attention_screen import AttentionRequest

    request = AttentionRequest(
        kind=kind,
        layer=_index("--layer", layer),
        head=_index("--head", head),
        token=token,
        top=top,
        roles=roles,
        lens=lens,
        ablate=ablate,
        check_mask=check_mask,
    )
    study = _open(run, prompt, checkpoint, device, _PAGE_PROMPT if html else None)
    _write_files(study, request, html, png, npz)
    if json:
        from minitx.report.attention.attention_json import attention_json

        typer.echo(attention_json(study, request))
    elif not (html or png or npz):
        _print(study, request, ascii_only)
    if check_mask and not study.mask_check.passed:
        raise typer.Exit(1)


def _index(flag: str, value: str | None) -> Index:
    if value is None or value == "all":
        return "all" if value else None
    if not value.isdecimal():
        raise BadInputError(f"{flag} is {value!r}", "Give a number from 0, or all")
    return int(value)


def _open(
    run: Path | None, prompt: str | None, checkpoint: str, device: str, tokens: int | None
) -> AttentionStudy:
    from minitx.checkpoint.rundir import resolve_checkpoint
    from minitx.config.checks import require_one_of
    from minitx.config.train_config import DeviceName
    from minitx.workflows.attend import SHORT_PROMPT, open_study

    require_one_of("--checkpoint", checkpoint, ("best", "last"))
    require_one_of("--device", device, get_args(DeviceName))
    which: Literal["best", "last"] = "last" if checkpoint == "last" else "best"
    directory = resolve_checkpoint(run, which)
    return open_study(directory, prompt, tokens or SHORT_PROMPT, device)


def _write_files(
    study: AttentionStudy,
    request: AttentionRequest,
    html: Path | None,
    png: Path | None,
    npz: Path | None,
) -> None:
    from minitx.workflows.attend import choose_maps, save_maps

    if npz is not None:
        save_maps(study, npz)
        typer.echo(f"Wrote {npz}", err=True)
    if png is not None:
        from minitx.report.attention.attention_png import save_png

        chosen = choose_maps(study, request.kind, request.layer, request.head)
        save_png(chosen.maps, study.maps.tokens, png)
        typer.echo(f"Wrote {png}", err=True)
    if html is not None:
        from minitx.report.pages.attention_page import save_page

        save_page(study, request, html)
        typer.echo(f"Wrote {html}", err=True)


def _print(study: AttentionStudy, request: AttentionRequest, ascii_only: bool) -> None:
    from rich.console import Console

    from minitx.report.attention.attention_screen import attention_screen
    from minitx.report.terminal.heatmap import shading_for

    console = Console(highlight=False, soft_wrap=False)
    shading = "ascii" if ascii_only else shading_for(console)
    # All is measured before anything is printed, so that an error stands alone.
    for part in list(attention_screen(study, request, shading, console.width)):
        console.print(part)
