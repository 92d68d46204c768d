"""`minitx diagnose`: what went wrong in a run, and what to try."""

from __future__ import annotations

import sys

import typer

from minitx.cli import many_imports
from minitx.cli.flags import Json, RunDirectory


def diagnose(run: RunDirectory = None, json: Json = False) -> None:
    """Name what went wrong in a run: the evidence, the likely cause, and the fix to try.

    Its metrics are read again, and its last checkpoint is looked into.
    """
    from minitx.report.evaluation.evaluation_progress import EvaluationProgress

    with EvaluationProgress(sys.stderr) as progress:
        progress.update("looking into the last checkpoint", 0, 0)
        with many_imports():
            from rich.console import Console

            from minitx.report.terminal.printable import json_line
            from minitx.report.training.diagnosis_report import diagnosis_report
            from minitx.workflows.diagnose import diagnose as diagnose_run
            from minitx.workflows.load import say_used

        diagnosis = diagnose_run(run)
    if json:
        typer.echo(json_line(diagnosis.to_json()))
    else:
        Console(highlight=False).print(diagnosis_report(diagnosis))
    say_used([diagnosis.checkpoint])
