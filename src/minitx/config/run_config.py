"""A whole run: corpus, tokenizer, model and training, as written to `run.toml`; and its schema."""

from __future__ import annotations

import dataclasses
import re
import typing
from dataclasses import dataclass
from typing import Any, Literal, get_args

from minitx.config.checks import require
from minitx.config.model_config import ModelConfig
from minitx.config.options import FRACTION, MACHINE, TEXT, Config, Option, option, options_of
from minitx.config.train_config import TrainConfig

TokenizerKind = Literal["bpe", "char", "word"]
TOKENIZER_KINDS: tuple[TokenizerKind, ...] = get_args(TokenizerKind)


SPLITS = ("tail", "hash", "characters")
"""Ways to hold out a part of the corpus; characters is that of earlier versions, the tail from any
character on."""

_ESCAPES = {"\\n": "\n", "\\t": "\t", "\\r": "\r", "\\\\": "\\"}


def parse_separator(name: str, text: str) -> str:
    r"""A separator, in which `\n`, `\t`, `\r` and `\\` stand for what they do in Python.

    Raises:
        BadInputError: it is empty.
    """
    require(bool(text), f"{name} is empty", r"Name a text, for example '\n\n'")
    return re.sub(r"\\[ntr\\]", lambda match: _ESCAPES[match[0]], text)


@dataclass(frozen=True)
class DataConfig(Config):
    """Where the text comes from and how it is split."""

    corpus: tuple[str, ...] = option(
        (),
        "Files, directories, globs, or - for standard input; the Python reference that comes with "
        "Python if left out.",
        is_argument=True,
    )
    format: str | None = option(
        None, "Format of all files, for example jsonl; recognised if left out.", TEXT
    )
    document_separator: str | None = option(
        None,
        "What stands between the documents of a plain text, for example a blank line: '\\n\\n'. A "
        "file is one document if left out.",
        TEXT,
        parse=parse_separator,
        metavar="TEXT",
    )
    text_field: str | None = option(
        None,
        "Key (a.b inside another) or column that holds the text of a record.",
        TEXT,
        also="text-column",
    )
    skip_bad: bool = option(False, "Pass over records that can't be used, and count them.", TEXT)
    dedup: bool = option(False, "Leave out documents that stand in the corpus already.", TEXT)
    holdout_fraction: float = option(
        0.1, "Part of the text that is never trained on.", TEXT, (0.0, 0.9)
    )
    split: str | None = option(
        None,
        "What is held out: the tail of the text, from a line on; documents, chosen by a hash of "
        "their content; or a file.",
        TEXT,
        details="From 20 documents on it is hash if left out, else tail. In runs of earlier "
        "versions it is not noted: they held out the tail from any character on.",
        metavar="tail|hash|FILE",
    )
    workers: int = option(
        0, "Processes that encode a long text; 0 for one a core.", MACHINE, (0, 1024)
    )
    split_seed: int = option(0, "Random seed of the hash.", TEXT, (0, 2**63 - 1))
    holdout: str | None = option(None, "The same as --split FILE.", TEXT, metavar="FILE")
    skipped: int | None = option(
        None, "Records that could not be used.", within=(0, 2**62), flag=None
    )
    leaked: float | None = option(
        None,
        "Part of the holdout that also stands in the train part, as was found before training.",
        within=FRACTION,
        flag=None,
    )
    leaks: tuple[str, ...] = option((), "The worst three passages of these.", flag=None)
    working_directory: str | None = option(
        None,
        "Where training began: the directory that relative names of the corpus and the holdout "
        "start from.",
        flag=None,
    )

    @property
    def held_file(self) -> str | None:
        """The file that is held out, as given; None if a part of the corpus is."""
        return self.holdout if self.split in (None, *SPLITS) else self.split

    @property
    def names(self) -> tuple[str, ...]:
        """Of the corpus and the holdout, as given."""
        return self.corpus if self.held_file is None else (*self.corpus, self.held_file)


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
