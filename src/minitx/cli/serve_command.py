"""`minitx serve`: a model over HTTP, as OpenAI's clients speak to one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

_WHERE, _LIMITS, _SHOW, _MODEL = "Who may ask", "Limits", "What is shown", "Model"


def serve(
    run: Annotated[
        Path | None,
        typer.Argument(help="Run or checkpoint directory; the newest run if left out."),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen at; any but this machine's own needs a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen at; 0 for any that is free.")] = 8000,
    token_file: Annotated[
        Path | None,
        typer.Option(
            help="Has the token that clients must show; or set MINITX_SERVE_TOKEN.",
            rich_help_panel=_WHERE,
        ),
    ] = None,
    max_concurrent: Annotated[
        int, typer.Option(help="Continuations generated at once.", rich_help_panel=_LIMITS)
    ] = 64,
    max_queue: Annotated[
        int, typer.Option(help="Continuations that may wait.", rich_help_panel=_LIMITS)
    ] = 256,
    max_tokens: Annotated[
        int, typer.Option(help="Longest continuation, in tokens.", rich_help_panel=_LIMITS)
    ] = 4096,
    max_prompt_tokens: Annotated[
        int | None,
        typer.Option(help="Longest prompt; the context if left out.", rich_help_panel=_LIMITS),
    ] = None,
    max_body_bytes: Annotated[
        int, typer.Option(help="Largest request.", rich_help_panel=_LIMITS)
    ] = 1 << 20,
    request_timeout: Annotated[
        str, typer.Option(help="Longest that an answer may take.", rich_help_panel=_LIMITS)
    ] = "10m",
    client_timeout: Annotated[
        str,
        typer.Option(
            help="Longest that a client may take to send, or to take in.", rich_help_panel=_LIMITS
        ),
    ] = "30s",
    grace: Annotated[
        str,
        typer.Option(help="For running requests to end after Ctrl-C.", rich_help_panel=_LIMITS),
    ] = "30s",
    quiet: Annotated[
        bool, typer.Option("--quiet", help="No line for each request.", rich_help_panel=_SHOW)
    ] = False,
    model_name: Annotated[
        str | None,
        typer.Option(help="As clients know it; the run's if left out.", rich_help_panel=_MODEL),
    ] = None,
    checkpoint: Annotated[
        str,
        typer.Option(
            metavar="best|last", help="Which checkpoint of a run.", rich_help_panel=_MODEL
        ),
    ] = "best",
    device: Annotated[
        str,
        typer.Option(help="Where to compute.", metavar="auto|cpu|cuda|mps", rich_help_panel=_MODEL),
    ] = "auto",
    dtype: Annotated[
        str,
        typer.Option(
            help="Format of the weights.", metavar="auto|float32|bfloat16", rich_help_panel=_MODEL
        ),
    ] = "auto",
    quantize: Annotated[
        str | None,
        typer.Option(
            metavar="int8|bfloat16",
            help="Keep the weights in fewer bits; eval --quantize says what it costs.",
            rich_help_panel=_MODEL,
        ),
    ] = None,
) -> None:
    """Answer OpenAI's completions API with a trained model, for many clients at once."""
    from minitx.config import WEIGHT_FORMATS
    from minitx.config.checks import require_one_of
    from minitx.config.flag_values import parse_duration
    from minitx.serving import require_extra

    require_extra()
    require_one_of("--checkpoint", checkpoint, ("best", "last"))
    if quantize is not None:
        require_one_of("--quantize", quantize, WEIGHT_FORMATS)
    which: Literal["best", "last"] = "last" if checkpoint == "last" else "best"

    import sys

    from minitx.report.serving_screen import ServingScreen
    from minitx.serving.limits import Limits
    from minitx.workflows.serve import ServeRequest, serve

    request = ServeRequest(
        run=run,
        which=which,
        host=host,
        port=port,
        token_file=token_file,
        limits=Limits(
            max_concurrent=max_concurrent,
            max_queue=max_queue,
            max_tokens=max_tokens,
            max_prompt_tokens=max_prompt_tokens,
            max_body_bytes=max_body_bytes,
            request_timeout=parse_duration("--request-timeout", request_timeout),
            client_timeout=parse_duration("--client-timeout", client_timeout),
            grace=parse_duration("--grace", grace),
        ),
        model_name=model_name,
        device=device,
        dtype=dtype,
        quantize=quantize,
    )
    ending = serve(request, ServingScreen(sys.stdout, requests=not quiet))
    raise typer.Exit(ending.exit_code)
