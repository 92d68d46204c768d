"""TOML in and out: `run.toml`, and the file given to `--config`.

The standard library reads TOML but does not write it; the few value types a config has make the
writer short enough to keep here.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

from minitx.errors import BadInputError
from minitx.files import TooLargeError, read_bounded

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

T = TypeVar("T")

LARGEST_CONFIG = 1 << 20
"""Bytes that a config may have; one of all keys has a few thousand."""


def parse_toml(path: Path) -> dict[str, Any]:
    """Tables of a TOML file.

    Raises:
        BadInputError: when the file is missing, too large, not UTF-8, or not TOML.
    """
    try:
        content = read_bounded(path, LARGEST_CONFIG, plain=False)
        tables: dict[str, Any] = tomllib.loads(content.decode("utf-8"))
    except TooLargeError:
        raise BadInputError(
            f"config {path} has more than {LARGEST_CONFIG:,} bytes", "Give a TOML file"
        ) from None
    except OSError as error:
        raise BadInputError(
            f"config {path} can't be read ({error.strerror})", "Give a TOML file that exists"
        ) from None
    except UnicodeDecodeError as error:
        raise BadInputError(
            f"config {path} is not UTF-8 at byte {error.start}", "Save it as UTF-8 text"
        ) from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise BadInputError(f"config {path} is not TOML: {error}", "Correct that line") from None
    return tables


def dump_toml(tables: dict[str, Any]) -> str:
    """Write dataclasses, one table each, with a key per field; None is left out."""
    blocks = []
    for name, value in tables.items():
        lines = [f"[{name}]"]
        for field in dataclasses.fields(value):
            item = getattr(value, field.name)
            if item is not None and item != {}:
                lines.append(f"{field.name} = {_toml_value(item)}")
        blocks.append("\n".join(lines) + "\n")
    return "\n".join(blocks)


def _toml_value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, str):
        # A JSON string is a TOML basic string, but for DEL, which TOML wants escaped.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_toml_value(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml_value(item)}" for key, item in value.items()) + "}"
    raise TypeError(f"no TOML form for {type(value).__name__}")


def build(cls: type[T], values: dict[str, Any], where: str) -> T:
    """Make a config dataclass from parsed values, refusing unknown keys and wrong types.

    Args:
        cls: a dataclass of `minitx.config`.
        values: keys and values as parsed from TOML or JSON, or given as flags.
        where: names the source in an error, for example ``run.toml [model]``.

    Raises:
        BadInputError: on an unknown key, a wrong type, a missing key or a value out of range.
    """
    hints = typing.get_type_hints(cls)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise BadInputError(
            f"{where} has an unknown key {unknown[0]!r}", f"Known keys are {', '.join(hints)}"
        )
    try:
        return cls(**{key: _coerce(hints[key], item, key, where) for key, item in values.items()})
    except TypeError:
        missing = [
            field.name
            for field in dataclasses.fields(typing.cast(Any, cls))
            if field.name not in values
            and field.default is dataclasses.MISSING
            and field.default_factory is dataclasses.MISSING
        ]
        raise BadInputError(
            f"{where} lacks the key{'s' if len(missing) > 1 else ''} {', '.join(missing)}",
            "Add it, or start from the run.toml of a run",
        ) from None


def typed(cls: Any, key: str, value: object, where: str) -> Any:
    """A value as the field `key` of a config dataclass has it.

    Raises:
        BadInputError: it is of another type.
    """
    return _coerce(typing.get_type_hints(cls)[key], value, key, where)


def _coerce(hint: Any, value: Any, key: str, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        hint = next(argument for argument in arguments if argument is not type(None))
        return _coerce(hint, value, key, where)
    if origin is tuple:
        if isinstance(value, (list, tuple)):
            return tuple(_coerce(arguments[0], item, key, where) for item in value)
        raise _wrong_type(key, value, "a list", where)
    if origin is typing.Literal:
        hint = str
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    plain = typing.get_origin(hint) or hint
    if isinstance(value, bool) != (plain is bool) or not isinstance(value, plain):
        raise _wrong_type(key, value, _TYPE_WORDS.get(plain, plain.__name__), where)
    return value


_TYPE_WORDS = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    bool: "true or false",
    dict: "a table",
}


def _wrong_type(key: str, value: object, expected: str, where: str) -> BadInputError:
    return BadInputError(f"{where}: {key} is {value!r}, not {expected}", "Correct its value")
