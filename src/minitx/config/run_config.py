"""A whole run: corpus, tokenizer, model and training, as written to `run.toml`; and its schema."""

from __future__ import annotations

import dataclasses
import typing
from dataclasses import dataclass
from typing import Any, Literal, get_args

from minitx.config.model_config import ModelConfig
from minitx.config.options import TEXT, Config, Option, option, options_of
from minitx.config.train_config import TrainConfig

TokenizerKind = Literal["bpe", "char", "word"]
TOKENIZER_KINDS: tuple[TokenizerKind, ...] = get_args(TokenizerKind)


@dataclass(frozen=True)
class DataConfig(Config):
    """Where the text comes from and how it is split."""

    corpus: tuple[str, ...] = option(
        (),
        "Files, directories, globs, or - for standard input; the Python reference that comes with "
        "Python if left out.",
        is_argument=True,
    )
    holdout_fraction: float = option(
        0.1, "Part of the text, counted from its end, that is never trained on.", TEXT, (0.0, 0.9)
    )
    holdout: str | None = option(None, "File to hold out instead.", TEXT, metavar="FILE")
    working_directory: str | None = option(
        None,
        "Where training began: the directory that relative names of the corpus and the holdout "
        "start from.",
        flag=None,
    )

    @property
    def names(self) -> tuple[str, ...]:
        """Of the corpus and the holdout, as given."""
        return self.corpus if self.holdout is None else (*self.corpus, self.holdout)


@dataclass(frozen=True)
class TokenizerConfig(Config):
    """Which tokenizer to train on the train part."""

    kind: TokenizerKind = option(
        "char", "Tokenizer: byte-level BPE, which encodes any text, characters, or words.", TEXT
    )
    vocab_size: int = option(
        0,
        "Largest number of token ids; for char, 0 is one for every character of the train part.",
        TEXT,
        (0, 2**24),
    )


@dataclass(frozen=True)
class RunConfig:
    """The resolved config of one run; written as the tables of `run.toml`."""

    data: DataConfig
    tokenizer: TokenizerConfig
    model: ModelConfig
    train: TrainConfig


TABLES: dict[str, type[Config]] = typing.get_type_hints(RunConfig)
"""The tables of `run.toml`."""

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
