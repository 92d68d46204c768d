"""`minitx profile`: where the time of a training step goes."""

from __future__ import annotations

from typing import Annotated

import typer

from minitx.cli.flags import Json, RunDirectory


def profile(
    run: RunDirectory = None,
    steps: Annotated[int, typer.Option(help="Steps to measure.")] = 20,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    dtype: Annotated[
        str | None, typer.Option(help="float32, bfloat16 or auto; the run's if left out.")
    ] = None,
    json: Json = False,
) -> None:
    """Show where a training step's time goes: attention, MLP, norms, head, optimizer, data.

    A copy of the run's last checkpoint is trained for a few steps; the run is not changed.
    """
    from rich.console import Console

    from minitx.report.terminal.printable import json_line
    from minitx.report.training.profile_report import profile_json, profile_report
    from minitx.workflows.load import say_used
    from minitx.workflows.profile import profile_run

    profile = profile_run(run, steps, device, dtype)
    if json:
        typer.echo(json_line(profile_json(profile)))
    else:
        Console(highlight=False).print(profile_report(profile))
    say_used([profile.checkpoint])
