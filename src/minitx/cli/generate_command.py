"""`minitx generate`: let a model continue a text."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from minitx.cli.imports import many_imports
from minitx.errors import BadInputError

_TEXT, _DRAW, _LIKES = "Text", "How a token is drawn, in the order applied", "Text it should have"
_SHOW, _MODEL = "What is shown", "Model"


def generate(
    run: Annotated[
        Path | None,
        typer.Argument(help="Run or checkpoint directory; the newest run if left out."),
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option(help="Text to continue; read from a pipe if left out.", rich_help_panel=_TEXT),
    ] = None,
    prompt_file: Annotated[
        Path | None,
        typer.Option(
            help="A text file, or JSON lines with a prompt each; answers in JSON lines.",
            rich_help_panel=_TEXT,
        ),
    ] = None,
    interactive: Annotated[
        bool,
        typer.Option("--interactive", "-i", help="Ask for prompts.", rich_help_panel=_TEXT),
    ] = False,
    max_new_tokens: Annotated[
        int, typer.Option(help="Longest continuation.", rich_help_panel=_TEXT)
    ] = 256,
    num_samples: Annotated[
        int, typer.Option(help="Continuations of each prompt.", rich_help_panel=_TEXT)
    ] = 1,
    seed: Annotated[int, typer.Option(help="Same seed, same text.", rich_help_panel=_TEXT)] = 1337,
    repetition_penalty: Annotated[
        float, typer.Option(help="Above 1: less of what was said.", rich_help_panel=_DRAW)
    ] = 1.0,
    frequency_penalty: Annotated[
        float, typer.Option(help="Subtracted for each earlier use.", rich_help_panel=_DRAW)
    ] = 0.0,
    presence_penalty: Annotated[
        float, typer.Option(help="Subtracted if used at all.", rich_help_panel=_DRAW)
    ] = 0.0,
    logit_bias: Annotated[
        list[str] | None,
        typer.Option(help="Added to a token's logit.", metavar="ID:VALUE", rich_help_panel=_DRAW),
    ] = None,
    temperature: Annotated[
        float, typer.Option(help="Below 1 bolder, above 1 wilder, 0 greedy.", rich_help_panel=_DRAW)
    ] = 0.8,
    top_k: Annotated[
        int | None, typer.Option(help="Only the k likeliest.", rich_help_panel=_DRAW)
    ] = None,
    top_p: Annotated[
        float, typer.Option(help="Only the likeliest, up to this mass.", rich_help_panel=_DRAW)
    ] = 1.0,
    min_p: Annotated[
        float,
        typer.Option(help="Only those this likely beside the likeliest.", rich_help_panel=_DRAW),
    ] = 0.0,
    typical_p: Annotated[
        float,
        typer.Option(help="Only those about as surprising as expected.", rich_help_panel=_DRAW),
    ] = 1.0,
    beams: Annotated[
        int,
        typer.Option(help="Beam search with so many, instead of drawing.", rich_help_panel=_DRAW),
    ] = 0,
    stop: Annotated[
        list[str] | None, typer.Option(help="End before this text.", rich_help_panel=_LIKES)
    ] = None,
    ban: Annotated[
        list[str] | None, typer.Option(help="Never write this text.", rich_help_panel=_LIKES)
    ] = None,
    require: Annotated[
        list[str] | None,
        typer.Option(help="Write this text before the end.", rich_help_panel=_LIKES),
    ] = None,
    min_new_tokens: Annotated[
        int, typer.Option(help="No stop text before.", rich_help_panel=_LIKES)
    ] = 0,
    show_probs: Annotated[
        bool,
        typer.Option("--show-probs", help="Each token's probability.", rich_help_panel=_SHOW),
    ] = False,
    json: Annotated[
        bool, typer.Option("--json", help="One JSON object a line.", rich_help_panel=_SHOW)
    ] = False,
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
    """Continue a text with a trained model; the same seed gives the same text."""
    with many_imports():
        from minitx.config import WEIGHT_FORMATS, SamplingConfig
        from minitx.config.checks import require_one_of
        from minitx.report.generation.generation_screen import GenerationScreen, read_lines
        from minitx.workflows.generate import in_batches, read_prompts
        from minitx.workflows.interactive import Conversation, continue_text
        from minitx.workflows.load import load

    require_one_of("--checkpoint", checkpoint, ("best", "last"))
    if quantize is not None:
        require_one_of("--quantize", quantize, WEIGHT_FORMATS)
    if sum((prompt is not None, prompt_file is not None, interactive)) > 1:
        raise BadInputError(
            "--prompt, --prompt-file and --interactive each say where prompts come from",
            "Give one of them",
        )
    if interactive and json:
        raise BadInputError("--interactive is for people, and --json for programs", "Leave one out")
    if beams and (interactive or show_probs or num_samples > 1):
        raise BadInputError(
            "--beams searches for the likeliest texts of a prompt and draws none",
            "Leave out --interactive, --show-probs and --num-samples",
        )
    config = SamplingConfig(
        repetition_penalty=repetition_penalty,
        frequency_penalty=frequency_penalty,
        presence_penalty=presence_penalty,
        logit_bias=dict(_bias(one) for one in logit_bias or ()),
        banned_strings=tuple(ban or ()),
        required_strings=tuple(require or ()),
        min_new_tokens=min_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        typical_p=typical_p,
        max_new_tokens=max_new_tokens,
        stop_strings=tuple(stop or ()),
        num_samples=num_samples,
        seed=seed,
    )
    which: Literal["best", "last"] = "last" if checkpoint == "last" else "best"
    model = load(run, which, device, dtype, quantize)
    if prompt is None and prompt_file is None and not interactive:
        prompt = _piped_prompt()

    prompts = read_prompts(prompt_file) if prompt_file is not None else [prompt or ""]
    screen = GenerationScreen(sys.stdout)
    if interactive:
        conversation = Conversation(model, screen, config, show_probs)
        read_lines(conversation.answer, str(model.directory))
        return
    json = json or (prompt_file is not None and prompt_file.suffix == ".jsonl")
    if beams:
        for text in prompts:
            screen.beams(model.beam_search(text, beams, max_new_tokens), as_json=json)
    elif json:
        generations = in_batches(model, prompts, config)
        screen.json_lines(generations, len(prompts) * num_samples, model.tokenizer)
    else:
        continue_text(model, screen, prompts[0], config, show_probs)


def _bias(text: str) -> tuple[int, float]:
    token, colon, value = text.partition(":")
    try:
        if not colon:
            raise ValueError
        return int(token), float(value)
    except ValueError:
        raise BadInputError(
            f"--logit-bias is {text!r}", "Write a token id and a number, like 12:-3.5"
        ) from None


def _piped_prompt() -> str:
    from minitx.corpus.readers.plain_text import decode_text

    if sys.stdin is None or sys.stdin.isatty():
        raise BadInputError(
            "there is no prompt", 'Give one with --prompt "To be", or --interactive'
        )
    return decode_text(sys.stdin.buffer.read(), "standard input")
