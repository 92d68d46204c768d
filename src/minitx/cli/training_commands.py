"""`minitx tokenize`, `train` and `resume`: from a text to tokens, and to a trained model."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from minitx.cli import many_imports
from minitx.cli.flags import Json, Loggers, RunDirectory, TrustCode, takes
from minitx.config import (
    DataConfig,
    ModelConfig,
    PlanSettings,
    TokenizerConfig,
    TokenizeRequest,
    TrainConfig,
)
from minitx.config.options import LENGTH, MACHINE, MODEL, TEXT, options_of
from minitx.config.overrides import config_from_options, merged, tables_from_options, values_of
from minitx.config.train_config import RESUMABLE

if TYPE_CHECKING:
    from minitx.training.observer import TrainingObserver


@takes(TokenizeRequest)
@takes(TokenizerConfig, planned=True)
def tokenize(**options: Any) -> None:
    """Cut a text into tokens: see the pieces, their ids, and what the cut is worth.

    minitx tokenize corpus.txt --kind bpe --vocab-size 1024 --out tokenizer

    minitx tokenize --tokenizer tokenizer --text "To be or not to be"
    """
    fixed = values_of(TokenizerConfig, options)
    request = config_from_options(TokenizeRequest, options, fixed=fixed)

    from minitx.report.terminal.printable import printed_name
    from minitx.report.terminal.tokenization_view import print_tokenized
    from minitx.workflows.tokenize import tokenize

    tokenized = tokenize(request, sys.stdin)
    if request.out is not None:
        typer.echo(f"Wrote {printed_name(request.out / 'tokenizer.json')}", err=True)
    print_tokenized(tokenized, request.show, request.json)


@takes(DataConfig, TokenizerConfig, planned=True)
def corpus(json: Json = False, **options: Any) -> None:
    """See what is in a corpus before training: its documents, and whether its holdout is new to it.

    minitx corpus texts/ notes.jsonl.gz

    minitx corpus table.csv --text-field review --json
    """
    from minitx.report.evaluation.evaluation_progress import EvaluationProgress

    data = config_from_options(DataConfig, options)
    with EvaluationProgress(sys.stderr, "bytes") as progress:
        progress.update("loading what reads it", 0, 0)
        from minitx.report.terminal.corpus_view import print_corpus
        from minitx.workflows.corpus import study_corpus

        study = study_corpus(
            data, values_of(TokenizerConfig, options), sys.stdin.buffer, progress.update
        )
    print_corpus(study, json)


_OF_PLAN = {"processes", *(option.name for option in options_of(PlanSettings))}
_AS_TRAIN = {option.name for option in options_of(TrainConfig)} - _OF_PLAN


@takes(PlanSettings)
@takes(TrainConfig, planned=True, only=_AS_TRAIN)
@takes(DataConfig, TokenizerConfig, ModelConfig, planned=True)
def plan(
    tokenizer: Annotated[
        Path | None, typer.Option(help="Use the tokenizer in this directory.", rich_help_panel=TEXT)
    ] = None,
    json: Json = False,
    **options: Any,
) -> None:
    """Know before you train: memory, time and the loss to expect, here or on other devices.

    minitx plan corpus.txt --budget 3m

    minitx plan corpus.txt --layers 12 --d-model 768 --steps 10000 --gpus 8 --device h100
    """
    from minitx.report.evaluation.evaluation_progress import EvaluationProgress

    settings = config_from_options(PlanSettings, options)
    words = {option.word for option in options_of(PlanSettings)}
    tables = tables_from_options(**{word: options[word] for word in options if word not in words})
    with EvaluationProgress(sys.stderr) as progress:
        progress.update("loading torch", 0, 0)
        with many_imports():
            from rich.console import Console

            from minitx.report.terminal.printable import json_line
            from minitx.report.training.forecast_view import forecast_json, forecast_report
            from minitx.workflows.plan import plan as plan_run
            from minitx.workflows.train import TrainRequest

        request = TrainRequest(
            **tables, tokenizer_directory=tokenizer, out=None, loggers=(), measure=False,
            model_file=None, check=True,
        )  # fmt: skip
        forecast = plan_run(
            settings, request, sys.stdin.buffer,
            lambda stage: progress.update(stage, 0, 0),
        )  # fmt: skip
    if json:
        typer.echo(json_line(forecast_json(forecast)))
    else:
        Console(highlight=False).print(forecast_report(forecast))


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
    model: Annotated[
        Path | None,
        typer.Option(
            help="Python file with a model of your own: model(config) gives any torch.nn.Module "
            "from ids to logits.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    no_check: Annotated[
        bool,
        typer.Option(
            "--no-check",
            help="Train that model although it sees what comes later.",
            rich_help_panel=MODEL,
        ),
    ] = False,
    measure: Annotated[
        bool,
        typer.Option(
            "--measure",
            help="Measure again how fast this machine is, which is kept from the first run on.",
            rich_help_panel=MACHINE,
        ),
    ] = False,
    log_to: Loggers = None,
    **options: Any,
) -> None:
    """Train a transformer on a text; sizes, rates and steps are planned unless given.

    minitx train                           the Python reference, about 5 minutes

    minitx train corpus.txt --budget 3m    your text, in 3 minutes

    minitx train --model my_model.py       a model that you have written
    """
    overrides = tables_from_options(**options)
    with _view() as view:
        tables = merged(config, overrides)
        with many_imports():
            from minitx.training.meeting import remembered_run
            from minitx.training.memory import refuse_too_large
            from minitx.workflows.launch import run_processes, wanted_processes
            from minitx.workflows.resume import ResumeRequest
            from minitx.workflows.resume import resume as resume_run
            from minitx.workflows.train import TrainRequest
            from minitx.workflows.train import train as train_run

        refuse_too_large(tables["model"])
        loggers = tuple(log_to or ())
        request = TrainRequest(
            **tables, tokenizer_directory=tokenizer, out=out, loggers=loggers, measure=measure,
            model_file=model, check=not no_check,
        )  # fmt: skip
        processes = wanted_processes(tables["train"].get("processes"))
        begun = remembered_run()
        if begun is not None:  # torchrun has started this again, after a process was lost.
            resume_run(ResumeRequest(begun, loggers=loggers), [view])
        elif not processes:
            train_run(request, [view], sys.stdin.buffer)
    if processes:
        run_processes(processes, sys.argv[1:])


@takes(TrainConfig, planned=True, only=RESUMABLE)
def resume(
    run: RunDirectory = None,
    allow_changed_corpus: Annotated[
        bool, typer.Option("--allow-changed-corpus", help="Go on although the text has changed.")
    ] = False,
    trust_code: TrustCode = False,
    log_to: Loggers = None,
    **options: Any,
) -> None:
    """Continue a run from its last checkpoint, also to more steps than first planned.

    With no option, it ends with the numbers it would have had if it had never stopped.

    The steps given with --steps include those already done.
    """
    changes = tables_from_options(**options)["train"]
    with _view() as view:
        with many_imports():
            from minitx.workflows.launch import processes_of, run_processes, wanted_processes
            from minitx.workflows.resume import ResumeRequest
            from minitx.workflows.resume import resume as resume_run

        loggers = tuple(log_to or ())
        request = ResumeRequest(run, changes, allow_changed_corpus, loggers)
        processes = wanted_processes(changes.get("processes", processes_of(run)))
        if not processes:
            resume_run(request, [view])
    if processes:
        run_processes(processes, sys.argv[1:])


@contextlib.contextmanager
def _view() -> Iterator[TrainingObserver]:
    from minitx.report.training.training_view import choose_view
    from minitx.training.launched import RUN_NOTE, is_follower, is_launched
    from minitx.training.observer import Observers, Phase

    if is_launched():
        # What torch logs of processes that are gone is said in one line.
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")
    if is_follower():
        yield Observers([])
        return
    with contextlib.closing(choose_view(sys.stdout)) as view:
        # Something to see before torch is loaded, which takes a second or two.
        if RUN_NOTE not in os.environ:  # Else the process that started this one has said it.
            view.observe(Phase("loading torch"))
        yield view
