"""`minitx train`: plan a run from a corpus and train it."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from minitx.cli.flags import Loggers, TensorBoard, takes
from minitx.config import DataConfig, ModelConfig, TokenizerConfig, TrainConfig
from minitx.config.options import LENGTH, TEXT


def _print_schema(wanted: bool) -> None:
    if wanted:
        import json

        from minitx.config.run_config import config_schema

        typer.echo(json.dumps(config_schema(), indent=2))
        raise typer.Exit


@takes(DataConfig, TokenizerConfig, ModelConfig, TrainConfig, planned=True)
def train(
    config: Annotated[
        Path | None,
        typer.Option(
            help="TOML file with the tables of run.toml; flags win.", rich_help_panel=LENGTH
        ),
    ] = None,
    config_schema: Annotated[
        bool,
        typer.Option(
            "--config-schema",
            callback=_print_schema,
            is_eager=True,
            help="Print the JSON schema of that file.",
            rich_help_panel=LENGTH,
        ),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Run directory to make; runs/CORPUS-NNN if left out.", rich_help_panel=LENGTH
        ),
    ] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(help="Use the tokenizer in this directory.", rich_help_panel=TEXT)
    ] = None,
    tensorboard: TensorBoard = False,
    logger: Loggers = None,
    **options: Any,
) -> None:
    """Train a transformer on a text; sizes, rates and steps are planned unless given.

    minitx train                           the Python reference, about 5 minutes

    minitx train corpus.txt --budget 3m    your text, in 3 minutes
    """
    from minitx.config.overrides import merged, tables_from_options
    from minitx.report.training.training_view import choose_view
    from minitx.training.observer import Phase

    overrides = tables_from_options(**options)
    with contextlib.closing(choose_view(sys.stdout)) as view:
        # Something to see before torch is loaded, which takes a second or two.
        view.observe(Phase("loading torch"))
        tables = merged(config, overrides)
        from minitx.training.memory import refuse_too_large

        refuse_too_large(tables["model"])
        from minitx.workflows.train import TrainRequest
        from minitx.workflows.train import train as train_run

        loggers = (*(logger or ()), *(("tensorboard",) if tensorboard else ()))
        request = TrainRequest(**tables, tokenizer_directory=tokenizer, out=out, loggers=loggers)
        train_run(request, [view], sys.stdin.buffer)
