"""`minitx profile`: where the time of a training step goes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def profile(
    run: Annotated[
        Path | None, typer.Argument(help="Run directory; the newest run if left out.")
    ] = None,
    steps: Annotated[int, typer.Option(help="Steps to measure.")] = 20,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    dtype: Annotated[
        str | None, typer.Option(help="float32, bfloat16 or auto; the run's if left out.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show where a training step's time goes: attention, MLP, norms, head, optimizer, data.

    A copy of the run's last checkpoint is trained for a few steps; the run is not changed.
    """
    from minitx.workflows.profile import profile_run

    found = profile_run(run, steps, device, dtype)
    if json:
        import json as json_module

        from minitx.report.training.profile_report import profile_json

        typer.echo(json_module.dumps(profile_json(found), ensure_ascii=False))
        return
    from rich.console import Console

    from minitx.report.training.profile_report import profile_report

    Console(highlight=False).print(profile_report(found))
