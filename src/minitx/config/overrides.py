"""What a person fixed: a TOML file, and the words of the command line, which win over it."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

from minitx.config.options import Config, Option, options_of
from minitx.config.run_config import TABLES
from minitx.config.toml import parse_toml, read_values, typed
from minitx.errors import BadInputError

Overrides = dict[str, Any]
"""Keys of one table that a person fixed, with their values."""

Tables = dict[str, Overrides]
"""The four tables of `run.toml`, with only what was fixed."""

C = TypeVar("C", bound=Config)

# Each length leaves the other to be planned, so naming one drops the other of the file, and what a
# clock made of it.
_ALTERNATIVES = {"steps": "budget_seconds", "budget_seconds": "steps"}


def tables_from_options(**options: Any) -> Tables:
    """Sort words of the command line, like ``steps=200, layers=2, budget="3m"``, into tables.

    A value of None is as if left out.

    Raises:
        BadInputError: a word is not known, or its value can't be read.
    """
    known = [option.word for config in TABLES.values() for option in options_of(config)]
    require_known(options, filter(None, known), "train")
    return {name: values_of(config, options) for name, config in TABLES.items()}


def require_known(words: Iterable[str], known: Iterable[str], command: str) -> None:
    """Refuse words that are no options of a command, with those that look alike."""
    known = list(known)
    for word in words:
        if word not in known:
            near = difflib.get_close_matches(word, known, cutoff=0.5)
            hint = f"Did you mean {' or '.join(near)}?" if near else f"See minitx {command} --help"
            raise BadInputError(f"there is no option {word}", hint)


def config_from_options(config: type[C], options: dict[str, Any], **more: Any) -> C:
    """Make a config from those words of the command line that are its own, and further fields.

    Raises:
        BadInputError: a value can't be read, is out of range, or does not fit another.
    """
    return config(**values_of(config, options), **more)


def values_of(config: type[Config], options: dict[str, Any]) -> Overrides:
    """Keys and values of a config, from those words of the command line that are its own.

    Raises:
        BadInputError: a value can't be read.
    """
    return {
        option.name: _read(config, option, options[option.word])
        for option in options_of(config)
        if option.word is not None and options.get(option.word) is not None
    }


def merged(file: Path | None, overrides: Tables) -> Tables:
    """Put words of the command line over a TOML file with any of the tables of `run.toml`.

    Raises:
        BadInputError: the file has an unknown table or key, or a value of a wrong type.
    """
    tables: Tables = {name: {} for name in TABLES}
    if file is not None:
        for name, values in parse_toml(file).items():
            tables[name] = _table(file, name, values)
        _place(tables["data"])
        # The vocabulary follows from the tokenizer.
        tables["model"].pop("vocab_size", None)
    for name, values in overrides.items():
        for key, value in values.items():
            if isinstance(value, dict):
                tables[name][key] = {**tables[name].get(key, {}), **value}
            elif value is not None:
                tables[name][key] = value
                if key in _ALTERNATIVES:
                    tables[name].pop("step_decisions", None)
                    if values.get(_ALTERNATIVES[key]) is None:
                        tables[name].pop(_ALTERNATIVES[key], None)
    return tables


def _place(data: Overrides) -> None:
    """Give names that are relative to where another run began as they are everywhere."""
    directory = data.pop("working_directory", None)
    if directory is not None:
        names = data.get("corpus", ())
        data["corpus"] = tuple(
            name if name == "-" else str(Path(directory, name)) for name in names
        )
        if data.get("holdout"):
            data["holdout"] = str(Path(directory, data["holdout"]))


def _table(file: Path, name: str, values: Any) -> Overrides:
    if name not in TABLES:
        raise BadInputError(
            f"{file} has an unknown table [{name}]", f"Known tables are {', '.join(TABLES)}"
        )
    if not isinstance(values, dict):
        raise BadInputError(f"{file}: {name} is not a table", f"Write [{name}] above its keys")
    # The plan reckons with them before the config is made.
    return read_values(TABLES[name], values, f"{file} [{name}]")


def _read(config: type[Config], option: Option, value: Any) -> Any:
    if option.parse is not None:
        flag = f"--{option.flag}"
        if option.kind is float and isinstance(value, (int, float)):
            value = str(value)
        if isinstance(value, str):
            return option.parse(flag, value)
        if isinstance(value, (list, tuple)):
            return dict(option.parse(flag, text) for text in value)
    elif option.is_list:
        if isinstance(value, (str, os.PathLike)):
            value = [value]
        if isinstance(value, (list, tuple)):
            value = [os.fspath(item) if isinstance(item, os.PathLike) else item for item in value]
    return typed(config, option.name, value, "options")
