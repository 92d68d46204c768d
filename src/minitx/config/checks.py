"""Values of a config: how they are written after a flag, and whether they are allowed.

Each failure is a one-line `BadInputError` naming key and fix.
"""

from __future__ import annotations

import math
import re
import sys
import typing
from collections.abc import Sequence
from typing import Any

from minitx.errors import BadInputError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_SPAN = re.compile(
    r"(?:(?P<h>\d+(?:\.\d+)?)h)?(?:(?P<m>\d+(?:\.\d+)?)m)?(?:(?P<s>\d+(?:\.\d+)?)s)?"
)
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0}
_LONGEST = 1e6
"""Seconds that are proposed; no option allows fewer."""


def require(condition: bool, what: str, fix: str) -> None:
    """Raise `BadInputError(what, fix)` unless `condition` holds."""
    if not condition:
        raise BadInputError(what, fix)


def require_range(name: str, value: float, low: float, high: float) -> None:
    """Refuse a number outside [low, high], not finite, or not a number at all."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or not low <= value <= high:
        raise BadInputError(
            f"{name} is {value!r}, outside {limit_text(low)} to {limit_text(high)}",
            f"Choose a value from {limit_text(low)} to {limit_text(high)}",
        )


def limit_text(limit: float) -> str:
    """A limit for people: 16,777,216 rather than 1.67772e+07."""
    return f"{int(limit):,}" if float(limit).is_integer() else f"{limit:g}"


def require_one_of(name: str, value: str, allowed: Sequence[str]) -> None:
    """Refuse a word that is not on the list."""
    if value not in allowed:
        raise BadInputError(f"{name} is {value!r}", f"Choose one of {', '.join(allowed)}")


def parse_duration(name: str, text: str) -> float:
    """Seconds in a time span like ``90s``, ``3m`` or ``1h30m``.

    Raises:
        BadInputError: it is not a time span, has no unit, or is of no length.
    """
    number = text.strip()
    if _NUMBER.fullmatch(number) and 1 <= float(number) <= _LONGEST:
        units = [unit for unit in "smh" if float(number) * _SECONDS[unit] <= _LONGEST]
        spans = " or ".join(f"{number}{unit}" for unit in units)
        raise BadInputError(f"{name} is {text!r}, which has no unit", f"Use {name} {spans}")
    match = _SPAN.fullmatch(text.strip().lower())
    seconds = 0.0
    if match is not None:
        seconds = sum(float(match[unit] or 0) * size for unit, size in _SECONDS.items())
    if seconds <= 0:
        raise BadInputError(
            f"{name} is {text!r}, which is no time span", "Write it like 90s, 3m or 1h30m"
        )
    return seconds


def duration_text(seconds: float) -> str:
    """A time span that `parse_duration` reads, in its largest whole unit."""
    unit = next(unit for unit, size in _SECONDS.items() if seconds % size == 0 or unit == "s")
    return f"{seconds / _SECONDS[unit]:g}{unit}"


def number_text(value: float, digits: int) -> str:
    """A number to so many digits, without a power of ten where it is large: 0.57, 5.7, 5,700."""
    return f"{float(f'{value:.{digits}g}'):,.10g}"


def toml_tables(text: str) -> dict[str, Any]:
    """Tables of a TOML text.

    Raises:
        ValueError: it is no TOML.
    """
    tables: dict[str, Any] = tomllib.loads(text)
    return tables


def parse_setting(name: str, text: str) -> tuple[str, Any]:
    """A key, and a value as TOML writes it; what TOML does not read is a text."""
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise BadInputError(f"{name} is {text!r}", "Write a key and a value, like nesterov=true")
    try:
        return key.strip(), toml_tables(f"value = {value}")["value"]
    except ValueError:
        return key.strip(), value


def parse_bias(name: str, text: str) -> tuple[int, float]:
    """A token id and what is added to its logit, or a BadInputError."""
    token, _, value = text.partition(":")
    try:
        return int(token), float(value)
    except ValueError:
        raise BadInputError(
            f"{name} is {text!r}", "Write a token id and a number, like 12:-3.5"
        ) from None


def coerced(kind: Any, value: Any, key: str, where: str) -> Any:
    """A value as one of a kind: an int for a float becomes one, a list for a tuple.

    Raises:
        BadInputError: it is of another type.
    """
    origin = typing.get_origin(kind)
    if origin is tuple:
        if isinstance(value, (list, tuple)):
            return tuple(coerced(typing.get_args(kind)[0], item, key, where) for item in value)
        raise _wrong_type(key, value, "a list", where)
    if origin is typing.Literal:
        kind = str
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    plain = origin if origin is dict else kind
    if isinstance(value, bool) != (plain is bool) or not isinstance(value, plain):
        raise _wrong_type(key, value, _TYPE_WORDS.get(plain, plain.__name__), where)
    return value


_TYPE_WORDS = {
    int: "a whole number", float: "a number", str: "a text", bool: "true or false", dict: "a table",
}  # fmt: skip


def _wrong_type(key: str, value: object, expected: str, where: str) -> BadInputError:
    return BadInputError(f"{where}: {key} is {value!r}, not {expected}", "Correct its value")
