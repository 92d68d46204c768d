"""`minitx generate`, `serve`, `eval`, `attn`, `explore`: use a model, measure it, look inside."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from minitx.cli import many_imports
from minitx.cli.flags import Json, Run, TrustCode, complete_runs, takes
from minitx.config import (
    AttentionRequest,
    EvaluationSettings,
    ExploreRequest,
    GenerationRequest,
    Limits,
    LoadConfig,
    SamplingConfig,
    ServeRequest,
)
from minitx.config.checks import require
from minitx.config.overrides import config_from_options


@takes(SamplingConfig, GenerationRequest, LoadConfig)
def generate(run: Run = None, trust_code: TrustCode = False, **options: Any) -> None:
    """Continue a text with a trained model; the same seed gives the same text."""
    sampling = config_from_options(SamplingConfig, options)
    request = config_from_options(GenerationRequest, options, sampling=sampling)
    how = config_from_options(LoadConfig, options)
    with many_imports():
        from minitx.report.generation_screen import GenerationScreen, converse
        from minitx.workflows.generate import in_batches, prompts_of, refuse_text
        from minitx.workflows.interactive import Conversation, continue_text
        from minitx.workflows.load import load, say_used

    refuse_text(run)
    model = load(run, how.checkpoint, how.device, how.dtype, how.quantize)
    prompts = prompts_of(request, sys.stdin)
    screen = GenerationScreen(sys.stdout)
    # A person knows before the first word; for a program an error, or a text, stands alone.
    if is_watched := request.interactive or sys.stdout.isatty():
        say_used([model.directory])
    if request.interactive:
        converse(Conversation(model, sampling, request.show_probs), screen)
    elif request.beams:
        for prompt in prompts:
            beams = model.beam_search(
                prompt, request.beams, sampling.max_new_tokens, sampling.ignore_eos
            )
            screen.beams(beams, as_json=request.as_json)
    elif request.as_json:
        texts = in_batches(model, prompts, sampling)
        screen.json_lines(texts, len(prompts) * sampling.num_samples, model.tokenizer)
    else:
        said = continue_text(model, prompts[0], sampling, request.show_probs)
        screen.show(prompts[0], said, model.tokenizer)
    if not is_watched:
        say_used([model.directory])


@takes(SamplingConfig, without=("num_samples",))
@takes(LoadConfig)
def chat(
    run: Run = None,
    system: Annotated[
        str | None,
        typer.Option(help="What the model is told before the conversation.", metavar="TEXT"),
    ] = None,
    trust_code: TrustCode = False,
    **options: Any,
) -> None:
    """Talk with a model that was trained on conversations; /help lists what else it does."""
    sampling = config_from_options(SamplingConfig, options)
    how = config_from_options(LoadConfig, options)
    with many_imports():
        from minitx.report.generation_screen import GenerationScreen, converse
        from minitx.workflows.chat import Chat
        from minitx.workflows.load import load, say_used

    model = load(run, how.checkpoint, how.device, how.dtype, how.quantize)
    talk = Chat(model, sampling, system, sys.stdin.isatty())
    say_used([model.directory])
    converse(talk, GenerationScreen(sys.stdout))


@takes(Limits, LoadConfig, ServeRequest)
def serve(run: Run = None, trust_code: TrustCode = False, **options: Any) -> None:
    """Answer OpenAI's completions API with a trained model, for many clients at once."""
    from minitx.serving import require_extra

    require_extra()
    limits = config_from_options(Limits, options)
    load = config_from_options(LoadConfig, options)
    request = config_from_options(ServeRequest, options, run=run, limits=limits, load=load)

    with many_imports():
        from minitx.report.serving_screen import ServingScreen
        from minitx.workflows.serve import serve

    report = serve(request, ServingScreen(sys.stdout, requests=not request.quiet))
    raise typer.Exit(report.exit_code)


@takes(EvaluationSettings, defaults={"unknown": "error"})
@takes(LoadConfig, only=("checkpoint",))
def evaluate(
    targets: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Runs or checkpoints to measure (the newest run if none), and text files to "
            "measure them on. Several runs are compared.",
            show_default=False,
            autocompletion=complete_runs,
        ),
    ] = None,
    holdout: Annotated[
        bool, typer.Option("--holdout", help="Score the run's holdout, also beside text files.")
    ] = False,
    full: Annotated[
        bool,
        typer.Option(
            "--full",
            help="Show all: where the loss comes from, calibration, copying, surprising passages.",
        ),
    ] = False,
    trust_code: TrustCode = False,
    json: Json = False,
    **options: Any,
) -> None:
    """Measure loss, perplexity and bits per byte, over the whole text, each token once.

    Before them a verdict on the fit, after them what the model must beat.

    With --full also where the loss comes from, surprises, and whether it copies.

    minitx eval --holdout                  the newest run on its holdout

    minitx eval runs/corpus-001 other.txt  a run on another text

    minitx eval runs/a runs/b              which is better, and is that chance?

    minitx eval --quantize int8            what do weights of 8 bits cost?
    """
    settings = config_from_options(EvaluationSettings, options)
    checkpoint = config_from_options(LoadConfig, options).checkpoint
    from minitx.report.evaluation.evaluation_progress import EvaluationProgress

    with EvaluationProgress(sys.stderr) as progress:
        progress.update("loading torch", 0, 0)
        with many_imports():
            from minitx.report.evaluation.holdout_report import print_reports
            from minitx.report.terminal.printable import json_line
            from minitx.workflows.evaluate import evaluate_targets
            from minitx.workflows.load import say_used

        reports = evaluate_targets(targets or [], holdout, checkpoint, settings, progress.update)
    if json:
        typer.echo(json_line({"reports": [report.to_json() for report in reports]}))
    else:
        print_reports(reports, full, with_stride=settings.stride is not None)
    models = [of.model for report in reports for of in getattr(report, "reports", [report])]
    say_used(model.checkpoint for model in models)


@takes(AttentionRequest)
@takes(LoadConfig, only=("checkpoint", "device"))
def attn(
    run: Run = None,
    prompt: Annotated[
        str | None, typer.Option(help="Text to read; the beginning of the holdout if left out.")
    ] = None,
    patch: Annotated[
        tuple[str, str] | None,
        typer.Option(
            metavar="CLEAN CORRUPT",
            help="Two prompts: put parts of the first one's run into the second's.",
        ),
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page to explore in a browser.")] = None,
    png: Annotated[Path | None, typer.Option(help="Write a picture (needs matplotlib).")] = None,
    npz: Annotated[Path | None, typer.Option(help="Write all maps as NumPy arrays.")] = None,
    trust_code: TrustCode = False,
    json: Json = False,
    ascii_only: Annotated[bool, typer.Option("--ascii", help="Draw with ASCII alone.")] = False,
    **options: Any,
) -> None:
    """Draw what a model looks at: attention maps, head roles, logit lens, attribution, patching.

    With nothing but a run: its most telling head, and the role of every head.
    """
    clean, corrupted = patch or (prompt, None)
    require(patch is None or prompt is None, "--patch has prompts of its own", "Leave out --prompt")
    request = config_from_options(AttentionRequest, options, corrupted=corrupted)
    load = config_from_options(LoadConfig, options)
    from minitx.report.evaluation.evaluation_progress import EvaluationProgress

    text, written = "", list[Path]()
    try:
        with EvaluationProgress(sys.stderr) as progress:
            progress.update("looking into the model", 0, 0)
            with many_imports():
                from rich.console import Console

                from minitx.checkpoint.rundir import resolve_checkpoint, use_checkpoint
                from minitx.report.attention.attention_output import (
                    study_json,
                    study_screen,
                    write_study,
                )
                from minitx.report.terminal.printable import printed_name
                from minitx.workflows.attend import PAGE_PROMPT, SHORT_PROMPT, open_study
                from minitx.workflows.generate import refuse_text
                from minitx.workflows.load import say_used

            refuse_text(run)
            n_tokens = PAGE_PROMPT if html else SHORT_PROMPT
            study = use_checkpoint(
                lambda: resolve_checkpoint(run, load.checkpoint),
                lambda checkpoint: open_study(checkpoint, clean, n_tokens, load.device),
            )
            if json:
                # Before a file is written: it may be refused.
                text = study_json(study, request)
            written.extend(write_study(study, request, html=html, png=png, npz=npz))
            # All is measured before anything is printed, so that an error stands alone.
            console = Console(highlight=False, soft_wrap=False)
            on_screen = not (json or html or png or npz)
            screen = study_screen(study, request, console, ascii_only) if on_screen else []
    finally:
        for path in written:
            typer.echo(f"Wrote {printed_name(path)}", err=True)
    if json:
        typer.echo(text)
    for part in screen:
        console.print(part)
    say_used([study.checkpoint])
    if request.check_mask and not study.mask_check.passed:
        raise typer.Exit(1)


@takes(ExploreRequest)
@takes(LoadConfig, only=("checkpoint", "device"))
def explore(run: Run = None, trust_code: TrustCode = False, **options: Any) -> None:
    """Watch a model think, in a browser: type, step through a pass, ask why this token.

    The page is for this machine alone, and fetches nothing from another.
    """
    from minitx.serving import require_extra

    require_extra("explore")
    load = config_from_options(LoadConfig, options)
    request = config_from_options(ExploreRequest, options, run=run, load=load)

    with many_imports():
        from minitx.report.pages.explore_page import explore_page
        from minitx.report.serving_screen import exploring
        from minitx.workflows.explore import explore
        from minitx.workflows.generate import refuse_text

    refuse_text(run)
    raise typer.Exit(explore(request, explore_page, exploring))
