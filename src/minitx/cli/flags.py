"""From the options of configs to the flags of a command, and the flags that many commands have."""

from __future__ import annotations

import glob
import inspect
import typing
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from minitx.config.checks import duration_text, parse_duration
from minitx.config.options import GROUPS, WATCHING, Config, Option, options_of

F = TypeVar("F", bound=Callable[..., Any])


def complete_runs(incomplete: str) -> list[str]:
    """Bare names of runs, for the shell; where none fits, it completes files."""
    begun = Path("runs").glob(f"{glob.escape(incomplete)}*/data")
    return sorted(path.parent.name for path in begun)


Run = Annotated[
    Path | None,
    typer.Argument(
        help="Run or checkpoint directory; the newest run if left out.",
        autocompletion=complete_runs,
    ),
]
RunDirectory = Annotated[
    Path | None,
    typer.Argument(help="Run directory; the newest run if left out.", autocompletion=complete_runs),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Loggers = Annotated[
    list[str] | None,
    typer.Option(
        "--log-to",
        help="Also log the run elsewhere: tensorboard, wandb, trackio, mlflow, or a logger that an "
        "installed package adds; may be repeated.",
        metavar="NAME",
        rich_help_panel=WATCHING,
    ),
]


def _trust(wanted: bool) -> None:
    if wanted:
        from minitx.trust import trust_all

        trust_all()


TrustCode = Annotated[
    bool,
    typer.Option(
        "--trust-code",
        callback=_trust,
        help="Run the code that a checkpoint has of its own: a model of somebody's own.",
    ),
]


def takes(
    *configs: type[Config],
    planned: bool = False,
    only: Collection[str] | None = None,
    without: Collection[str] = (),
    defaults: Mapping[str, Any] | None = None,
) -> Callable[[F], F]:
    """Give a command the flags of configs; it gets their values as ``**options``, by word.

    Args:
        configs: whose options.
        planned: whether what is left out is None, and chosen later, instead of the default.
        only, without: names of the options to take, and of those not to.
        defaults: of options that a person and a program want differently.
    """
    flags = [
        _parameter(option, None if planned else (defaults or {}).get(option.name, option.default))
        for config in configs
        for option in options_of(config)
        if option.word is not None and (only is None or option.name in only)
        if option.name not in without
    ]

    def with_signature(command: F) -> F:
        parameters = inspect.signature(command, eval_str=True).parameters.values()
        own = [flag for flag in parameters if flag.kind is not flag.VAR_KEYWORD]
        signature = inspect.Signature(sorted([*flags, *own], key=_place))
        command.__signature__ = signature  # type: ignore[attr-defined]
        return command

    return with_signature


def _parameter(option: Option, default: Any) -> inspect.Parameter:
    assert option.word is not None
    metavar = option.metavar or "|".join(option.choices) or None
    about: dict[str, Any] = {"help": option.help, "metavar": metavar}
    kind: Any = option.kind
    if option.is_list or typing.get_origin(kind) is dict:
        kind = list[str]
    elif option.parse is not None or option.choices:
        kind = str
    if not isinstance(default, (int, float, str)):
        default = None
    elif option.parse is parse_duration:
        default = duration_text(float(default))
    if option.is_argument:
        told = typer.Argument(**about, show_default=False)
    else:
        told = typer.Option(*_names(option, default), **about, rich_help_panel=option.group or None)
    return inspect.Parameter(
        option.word,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
        default=default,
        annotation=Annotated[kind if default is not None else kind | None, told],
    )


def _names(option: Option, default: Any) -> list[str]:
    names = f"--{option.flag}"
    others = [f"--{option.also}"] if option.also else []
    if option.kind is bool and default is not False:
        names += f"/--{option.off_flag or f'no-{option.flag}'}"
    return [names, *others, *([f"-{option.short_flag}"] if option.short_flag else [])]


def _place(parameter: inspect.Parameter) -> tuple[bool, int]:
    """What must be given first, then arguments and flags without a heading, others by heading."""
    annotations = getattr(parameter.annotation, "__metadata__", ())
    panel = getattr(annotations[0], "rich_help_panel", None) if annotations else None
    heading = GROUPS.index(panel) if panel in GROUPS else -1
    return parameter.default is not parameter.empty, heading


def show_result(*results: Any) -> None:
    """Print JSON objects for programs, or what rich draws for people."""
    from rich.console import Console

    from minitx.report.terminal.printable import json_line

    for result in results:
        if isinstance(result, dict):
            typer.echo(json_line(result))
        else:
            Console(highlight=False).print(result)
