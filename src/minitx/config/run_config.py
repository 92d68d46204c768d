"""A whole run: corpus, tokenizer, model and training, as written to `run.toml`."""

# ruff: noqa: RUF009 (`option` makes a dataclass field)

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from minitx.config.model_config import ModelConfig
from minitx.config.options import TEXT, Config, option
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


TABLES: dict[str, type[Config]] = {
    "data": DataConfig,
    "tokenizer": TokenizerConfig,
    "model": ModelConfig,
    "train": TrainConfig,
}
"""The tables of `run.toml`."""
