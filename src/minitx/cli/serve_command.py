"""`minitx serve`: a model over HTTP, as OpenAI's clients speak to one."""

from __future__ import annotations

import sys
from typing import Any

import typer

from minitx.cli.flags import Run, takes
from minitx.config import Limits, LoadConfig, ServeRequest
from minitx.config.overrides import config_from_options


@takes(Limits, LoadConfig, ServeRequest)
def serve(run: Run = None, **options: Any) -> None:
    """Answer OpenAI's completions API with a trained model, for many clients at once."""
    from minitx.serving import require_extra

    require_extra()
    limits = config_from_options(Limits, options)
    load = config_from_options(LoadConfig, options)
    request = config_from_options(ServeRequest, options, run=run, limits=limits, load=load)

    from minitx.report.serving_screen import ServingScreen
    from minitx.workflows.serve import serve

    report = serve(request, ServingScreen(sys.stdout, requests=not request.quiet))
    raise typer.Exit(report.exit_code)
