"""A JSON schema of `run.toml` and of a file for `--config`, for editors and other programs."""

from __future__ import annotations

import dataclasses
import typing
from typing import Any

from minitx.config.options import Option, options_of
from minitx.config.run_config import TABLES

_TYPES = {int: "integer", float: "number", str: "string", bool: "boolean"}


def config_schema() -> dict[str, Any]:
    """The schema (draft 2020-12): four tables, in which no key is required."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "run.toml of minitx",
        **_object(
            {
                name: {"description": config.__doc__.split("\n")[0]}  # type: ignore[union-attr]
                | _object({option.name: _of_option(option) for option in options_of(config)})
                for name, config in TABLES.items()
            }
        ),
    }


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _of_option(option: Option) -> dict[str, Any]:
    schema = {"description": option.description, **_of_type(option.kind)}
    if option.within is not None:
        schema["minimum"], schema["maximum"] = option.within
    if option.default is not dataclasses.MISSING and option.default is not None:
        schema["default"] = option.default
    return schema


def _of_type(kind: Any) -> dict[str, Any]:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return {"enum": list(arguments)}
    if origin is tuple:
        return {"type": "array", "items": _of_type(arguments[0])}
    if origin is dict:
        types = [_TYPES[value] for value in typing.get_args(arguments[1])]
        return {"type": "object", "additionalProperties": {"type": types}}
    return {"type": _TYPES[kind]}
