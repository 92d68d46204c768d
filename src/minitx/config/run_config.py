"""A whole run: corpus, tokenizer, model and training, as written to `run.toml`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from minitx.config.checks import require_one_of, require_range
from minitx.config.model_config import ModelConfig
from minitx.config.train_config import TrainConfig

TokenizerKind = Literal["bpe", "char", "word"]
TOKENIZER_KINDS: tuple[TokenizerKind, ...] = ("bpe", "char", "word")


@dataclass(frozen=True)
class DataConfig:
    """Where the text comes from and how it is split.

    Attributes:
        corpus: files, directories, globs, or `-` for standard input; empty is the embedded
            default corpus.
        holdout_fraction: part of the text, counted from its end, that is never trained on.
        holdout: a file to use as the holdout instead; None takes `holdout_fraction`.
    """

    corpus: tuple[str, ...] = ()
    holdout_fraction: float = 0.1
    holdout: str | None = None

    def __post_init__(self) -> None:
        require_range("holdout_fraction", self.holdout_fraction, 0.0, 0.9)


@dataclass(frozen=True)
class TokenizerConfig:
    """Which tokenizer to train on the train part.

    Attributes:
        kind: `bpe` (byte-level, any text round-trips), `char`, or `word`.
        vocab_size: upper limit on the number of token ids. For `char`, 0 means every character
            of the train part.
    """

    kind: TokenizerKind = "char"
    vocab_size: int = 0

    def __post_init__(self) -> None:
        require_one_of("kind", self.kind, TOKENIZER_KINDS)
        require_range("vocab_size", self.vocab_size, 0, 2**24)


@dataclass(frozen=True)
class RunConfig:
    """The resolved config of one run; written as the tables of `run.toml`."""

    data: DataConfig
    tokenizer: TokenizerConfig
    model: ModelConfig
    train: TrainConfig
