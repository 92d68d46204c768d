"""Train a tokenizer, and see what one does to a text: what `minitx tokenize` does, as library
calls.

    tokenizer = train_on(["corpus.txt"], "bpe", 1024)[0]
    print(tokenization(tokenizer, "To be or not to be").bytes_per_token)
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from minitx.checkpoint.rundir import resolve_checkpoint
from minitx.config import DataConfig
from minitx.config.overrides import Overrides
from minitx.corpus import Split, read_corpus, split_corpus
from minitx.errors import BadInputError
from minitx.tokenizer import Tokenizer, load_tokenizer, train_tokenizer
from minitx.training.tokenizer_planning import TextSize, plan_tokenizer

_WORD = re.compile(r"\w+", re.UNICODE)


@dataclass(frozen=True, eq=False)
class Tokenization:
    """A text as a tokenizer sees it.

    Attributes:
        text: what was encoded.
        ids: `(tokens,)`.
        n_bytes: of the text's UTF-8.
        n_words: runs of letters and digits.
        n_unknown: tokens that stand for what the vocabulary lacks.
        round_trip: whether decoding gives the text back exactly.
    """

    text: str
    ids: np.ndarray[Any, np.dtype[np.int32]]
    n_bytes: int
    n_words: int
    n_unknown: int
    round_trip: bool

    @property
    def n_tokens(self) -> int:
        """How many tokens."""
        return len(self.ids)

    @property
    def bytes_per_token(self) -> float:
        """Compression: how much text one token stands for."""
        return self.n_bytes / max(1, self.n_tokens)

    @property
    def fertility(self) -> float:
        """Tokens for each word; 1 would be a token a word."""
        return self.n_tokens / max(1, self.n_words)

    @property
    def unknown_rate(self) -> float:
        """Part of the tokens that are unknown."""
        return self.n_unknown / max(1, self.n_tokens)

    def figures(self) -> dict[str, Any]:
        """The figures as a JSON object, without text and ids."""
        return {
            "tokens": self.n_tokens,
            "bytes": self.n_bytes,
            "words": self.n_words,
            "bytes_per_token": self.bytes_per_token,
            "fertility": self.fertility,
            "unknown_tokens": self.n_unknown,
            "unknown_rate": self.unknown_rate,
            "round_trip": self.round_trip,
        }


def train_on(
    sources: Sequence[str],
    given: Overrides,
    data: Overrides | None = None,
    stdin: BinaryIO | None = None,
) -> tuple[Tokenizer, Split, dict[str, str]]:
    """Train a tokenizer on the train part of a corpus, as `minitx train` would.

    Args:
        sources: of the corpus; see `read_corpus`.
        given: keys of `TokenizerConfig` that are fixed.
        data: keys of `DataConfig` that are fixed, beside the sources.
        stdin: for a source ``-``.

    Returns:
        The tokenizer, both parts of the text, and a reason for each key that was planned.

    Raises:
        BadInputError: the corpus or a setting can't be used.
    """
    config = DataConfig(tuple(sources), **(data or {}))
    split = split_corpus(read_corpus(sources, stdin), config)
    planned, reasons = plan_tokenizer(TextSize.of(split.train), given)
    return train_tokenizer(split.train, planned.kind, planned.vocab_size), split, reasons


def open_tokenizer(path: Path | None) -> Tokenizer:
    """Load the tokenizer of a directory that has one, or of a run; None for the newest run.

    Raises:
        BadInputError: there is none.
    """
    if path is not None and (path / "tokenizer.json").is_file():
        return load_tokenizer(path)
    return load_tokenizer(resolve_checkpoint(path, "last"))


def tokenization(tokenizer: Tokenizer, text: str, unknown: str = "error") -> Tokenization:
    """Encode a text, and decode it again.

    Args:
        tokenizer: of any kind.
        text: to encode.
        unknown: `error`, or `replace` to count what the vocabulary lacks.

    Raises:
        BadInputError: the text has something unknown.
    """
    ids = tokenizer.encode(text, unknown="replace" if unknown == "replace" else "error")
    unknown_id = tokenizer.unknown_id
    return Tokenization(
        text=text,
        ids=ids,
        n_bytes=len(text.encode("utf-8")),
        n_words=sum(1 for _ in _WORD.finditer(text)),
        n_unknown=0 if unknown_id is None else int(np.count_nonzero(ids == unknown_id)),
        round_trip=tokenizer.decode(ids) == text,
    )


def parse_ids(text: str) -> list[int]:
    """Read token ids, separated by spaces or commas, with or without brackets.

    Raises:
        BadInputError: something in it is no number.
    """
    words = text.replace(",", " ").strip().strip("[]").split()
    for word in words:
        if not word.isascii() or not word.isdigit():
            raise BadInputError(f"{word!r} is no token id", "Give numbers, like 18 47 56")
    if not words:
        raise BadInputError("there are no token ids", "Give numbers, like 18 47 56")
    # Python itself refuses to read thousands of digits; no vocabulary needs more than ten.
    return [min(int(word.lstrip("0")[:11] or "0"), 2**31) for word in words]
