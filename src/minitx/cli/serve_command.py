"""`minitx serve`: a model over HTTP, as OpenAI's clients speak to one."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from minitx.cli.flags import Run, takes
from minitx.config import Limits, LoadConfig
from minitx.config.options import ACCESS, LOADED, SHOWN


@takes(Limits, LoadConfig)
def serve(
    run: Run = None,
    host: Annotated[
        str, typer.Option(help="Address to listen at; any but this machine's own needs a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen at; 0 for any that is free.")] = 8000,
    token_file: Annotated[
        Path | None,
        typer.Option(
            help="Has the token that clients must show; or set MINITX_SERVE_TOKEN.",
            rich_help_panel=ACCESS,
        ),
    ] = None,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="No line for each request.", rich_help_panel=SHOWN)
    ] = False,
    model_name: Annotated[
        str | None,
        typer.Option(help="As clients know it; the run's if left out.", rich_help_panel=LOADED),
    ] = None,
    **options: Any,
) -> None:
    """Answer OpenAI's completions API with a trained model, for many clients at once."""
    from minitx.config.overrides import config_from_options
    from minitx.serving import require_extra

    require_extra()
    limits = config_from_options(Limits, options)
    load = config_from_options(LoadConfig, options)

    from minitx.report.serving_screen import ServingScreen
    from minitx.workflows.serve import ServeRequest, serve

    request = ServeRequest(
        run=run,
        which=load.checkpoint,
        host=host,
        port=port,
        token_file=token_file,
        limits=limits,
        model_name=model_name,
        device=load.device,
        dtype=load.dtype,
        quantize=load.quantize,
    )
    report = serve(request, ServingScreen(sys.stdout, requests=not quiet))
    raise typer.Exit(report.exit_code)
