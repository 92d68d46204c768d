"""`minitx diagnose`: what went wrong in a run, and what to try."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def diagnose(
    run: Annotated[
        Path | None, typer.Argument(help="Run directory; the newest run if left out.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Name what went wrong in a run: the evidence, the likely cause, and the fix to try.

    Its metrics are read again, and its last checkpoint is looked into.
    """
    from minitx.workflows.diagnose import diagnose as diagnose_run

    diagnosis = diagnose_run(run)
    if json:
        import json as json_module

        typer.echo(json_module.dumps(diagnosis.to_json(), ensure_ascii=False))
        return
    from rich.console import Console

    from minitx.report.training.diagnosis_report import diagnosis_report

    Console(highlight=False).print(diagnosis_report(diagnosis))
