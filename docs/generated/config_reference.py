"""The reference of the configs, read from the options that their fields are."""

from __future__ import annotations

import dataclasses
import typing
from typing import Any

from minitx.config.checks import limit_text
from minitx.config.options import Config, Option, options_of
from minitx.config.run_config import TABLES


def config_reference() -> str:
    """The page of `run.toml`, in Markdown."""
    parts = [
        "# run.toml",
        "Each run keeps its config in `run.toml`, and `minitx train --config FILE` reads a file "
        "with any of its tables and keys; what is left out is planned, or has the default that is "
        "named here. `minitx train --config-schema` prints a JSON schema for an editor.",
    ]
    for name, config in TABLES.items():
        parts += [f"## [{name}]", _summary(config), options_list(config)]
    return "\n\n".join(parts) + "\n"


def options_list(config: type[Config]) -> str:
    """A line for each option of a config: its type, default, range, help and flag."""
    return "\n".join(_line(option) for option in options_of(config))


def section(name: str, config: type[Config]) -> str:
    """A config as a part of the library's page."""
    return f"### `{name.rpartition('.')[2]}`\n\n{_summary(config)}\n\n{options_list(config)}"


def _summary(config: type[Config]) -> str:
    return (config.__doc__ or "").split("\n\n")[0]


def _line(option: Option) -> str:
    facts = [" or ".join(f"`{choice}`" for choice in option.choices) or _type(option.kind)]
    if option.within is not None:
        facts.append("from {} to {}".format(*map(limit_text, option.within)))
    if option.default not in (dataclasses.MISSING, None, (), {}):
        shown = str(option.default).lower() if option.kind is bool else option.default
        facts.append(f"default `{shown}`")
    if option.flag is not None and not option.is_argument:
        facts.append(f"`--{option.flag}`")
    return f"- `{option.name}` ({', '.join(facts)}): {option.description}"


def _type(kind: Any) -> str:
    words = {int: "whole number", float: "number", str: "text", bool: "true or false"}
    origin = typing.get_origin(kind)
    if origin is tuple:
        return f"list of {_type(typing.get_args(kind)[0])}"
    return "table" if origin is dict else words.get(kind, "path")
