"""What a person fixed: a TOML file, and flags, which win over it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from minitx.config.model_config import ModelConfig
from minitx.config.run_config import DataConfig, TokenizerConfig
from minitx.config.toml import parse_toml, typed
from minitx.config.train_config import TrainConfig
from minitx.errors import BadInputError

Tables = dict[str, dict[str, Any]]

TABLES: dict[str, Any] = {
    "data": DataConfig,
    "tokenizer": TokenizerConfig,
    "model": ModelConfig,
    "train": TrainConfig,
}

# Each length leaves the other to be planned, so naming one drops the other of the file, and what a
# clock made of it.
_ALTERNATIVES = {"steps": "budget_seconds", "budget_seconds": "steps"}


def merged(file: Path | None, flags: Tables) -> Tables:
    """Put flags over a file.

    Args:
        file: a TOML file with any of the tables of `run.toml`; None for none.
        flags: the same tables; a value of None was not given.

    Returns:
        The four tables, with only what was given.

    Raises:
        BadInputError: the file has an unknown table or key, or a value of a wrong type.
    """
    tables: Tables = {name: {} for name in TABLES}
    if file is not None:
        for name, values in parse_toml(file).items():
            _require_known(file, name, values)
            # The plan reckons with them before the config is made.
            tables[name].update(
                (key, typed(TABLES[name], key, value, f"{file} [{name}]"))
                for key, value in values.items()
            )
        # The vocabulary follows from the tokenizer.
        tables["model"].pop("vocab_size", None)
    for name, values in flags.items():
        for key, value in values.items():
            if value is not None:
                tables[name][key] = value
                if key in _ALTERNATIVES:
                    tables[name].pop("settlements", None)
                    if values.get(_ALTERNATIVES[key]) is None:
                        tables[name].pop(_ALTERNATIVES[key], None)
    return tables


def _require_known(file: Path, name: str, values: Any) -> None:
    if name not in TABLES:
        raise BadInputError(
            f"{file} has an unknown table [{name}]", f"Known tables are {', '.join(TABLES)}"
        )
    if not isinstance(values, dict):
        raise BadInputError(f"{file}: {name} is not a table", f"Write [{name}] above its keys")
    known = [field.name for field in dataclasses.fields(TABLES[name])]
    for key in values:
        if key not in known:
            raise BadInputError(
                f"{file} [{name}] has an unknown key {key!r}", f"Known keys are {', '.join(known)}"
            )
