"""Plan a tokenizer from the text, before there are tokens."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from minitx.config import ModelConfig, TokenizerConfig
from minitx.config.checks import number_text
from minitx.config.overrides import Overrides
from minitx.config.run_config import TokenizerKind
from minitx.config.toml import build
from minitx.corpus.part_text import PartText
from minitx.training.planning import (
    DEFAULT_BUDGET_SECONDS,
    EMBEDDING_TO_BLOCKS,
    TokenFigures,
    between,
    block_parameters,
    choose_shape,
    passes_text,
    planned_shape,
    tokens_per_second,
)

BYTES_PER_TOKEN = 3
"""Of byte-level BPE, about; where it is needed before there is one."""

MOST_LEARNED_FROM = 64 << 20
"""Bytes of text that pieces of words are learned from: more changes few of them."""

CHARACTERS_FROM = 6.0
"""Epochs, times parameters for each character of the train part, from which on a text of few
characters is split into those: word pieces cover more text in the same time, and the model
memorizes it sooner. That is about the work that there is time for, over the square of the text's
length, so it does not jump where the model becomes another one."""

LEAST_PREDICTABILITY = 0.1
"""`TextSize.predictability` below which a text has proportionally fewer ids: pieces are arbitrary
there, and each must be learned by itself. It is a fifth to a quarter in a language and in programs,
and next to nothing in DNA."""

PREDICTABILITY_SAMPLE = 1 << 20
"""Characters of the text from which that is estimated."""

EMBEDDING_OF_UNSEEN = 1.2
"""`EMBEDDING_TO_BLOCKS` where there is no time for a whole epoch: longer pieces cover more text."""


@dataclass(frozen=True)
class TextSize:
    """What is known of a text before it is tokenized.

    `n_distinct` counts characters; `predictability` is the part of a character's entropy that is
    gone once the one before is known: 0 if they are independent, 1 if it follows from that.
    """

    n_bytes: int
    n_characters: int
    n_distinct: int
    predictability: float = 1.0

    @classmethod
    def of(cls, texts: Iterable[str]) -> TextSize:
        """Count, in a text that comes in parts."""
        n_bytes = n_characters = 0
        seen, beginning = np.zeros(sys.maxunicode + 1, bool), ""
        for text in texts:
            n_bytes += len(text.encode("utf-8"))
            n_characters += len(text)
            seen[np.frombuffer(text.encode("utf-32-le"), "<u4")] = True
            if len(beginning) < PREDICTABILITY_SAMPLE:
                beginning += text[: PREDICTABILITY_SAMPLE - len(beginning)]
        return cls(n_bytes, n_characters, int(seen.sum()), _predictability(beginning))


def _predictability(text: str) -> float:
    codes = np.frombuffer(text.encode("utf-32-le"), "<u4").astype(np.uint64)
    alone, both = _entropy(codes), _entropy(codes[:-1] << np.uint64(32) | codes[1:])
    return max(0.0, 2.0 - both / alone) if alone else 1.0


def _entropy(values: npt.NDArray[np.uint64]) -> float:
    parts = np.unique(values, return_counts=True)[1] / max(1, len(values))
    return float(-(parts * np.log2(parts)).sum())


def learned_from(train: PartText, kind: TokenizerKind) -> Iterator[str]:
    """What a tokenizer of a kind is trained on: the train part, or as much of it as it needs."""
    if kind != "char":
        return train.sample(MOST_LEARNED_FROM)
    return (stretch for document in train.documents() for stretch in document)


@dataclass(frozen=True)
class Capacity:
    """What can be trained in the time, as far as it can be told before there are tokens: a model
    for word pieces (with a vocabulary of one id), or another one on so many characters.
    """

    model: ModelConfig
    of_characters: ModelConfig
    n_characters: float


def plan_tokenizer(
    text: TextSize, given: Overrides, capacity: Capacity | None = None
) -> tuple[TokenizerConfig, dict[str, str]]:
    """Choose a tokenizer for a train part, with a reason for each key that is not given."""
    values, reasons = dict(given), {}
    if "kind" not in values:
        values["kind"], reasons["kind"] = _choose_kind(text, capacity)
    if "vocab_size" not in values and values["kind"] != "char":
        # In powers of two: every piece is seen often.
        ids = text.n_bytes / 250 * min(1.0, text.predictability / LEAST_PREDICTABILITY)
        values["vocab_size"] = between(512, 2 ** round(math.log2(max(512.0, ids))), 32_768)
        reasons["vocab_size"] = "about one id for each 250 bytes of the train part"
        if text.predictability < LEAST_PREDICTABILITY:
            reasons["vocab_size"] = "few: its characters hardly predict the next one"
        if capacity is not None and (most := _most_ids(text, capacity)) < values["vocab_size"]:
            values["vocab_size"] = most
            reasons["vocab_size"] = "more would take most of the work of a model of this size"
    return build(TokenizerConfig, values, "tokenizer"), reasons


def _choose_kind(text: TextSize, capacity: Capacity | None) -> tuple[TokenizerKind, str]:
    size = f"{number_text(text.n_bytes / 1e6, 3)} MB with {text.n_distinct:,} characters"
    if text.n_bytes >= 8_000_000 or text.n_distinct > 256:
        return "bpe", f"{size}: word pieces make the text shorter"
    if capacity is None:
        return "char", f"{size}: each character is seen often enough to be learned"
    epochs = capacity.n_characters / max(1, text.n_characters)
    passes = f"as characters, time for {passes_text(epochs)} over {size}"
    per_character = block_parameters(capacity.of_characters) / max(1, text.n_characters)
    if epochs * per_character >= CHARACTERS_FROM:
        return "char", f"{passes}: enough to learn from single characters"
    return "bpe", f"{passes}: word pieces cover more text per step"


def _most_ids(text: TextSize, capacity: Capacity) -> int:
    has_whole_epoch = capacity.n_characters >= text.n_characters
    part = EMBEDDING_TO_BLOCKS if has_whole_epoch else EMBEDDING_OF_UNSEEN
    n_ids = part * capacity.model.n_parameters / capacity.model.d_model
    return between(512, 2 ** int(math.log2(n_ids)), 32_768)


def plan_capacity(
    text: TextSize, rate: float, given_model: Overrides, given_train: Overrides
) -> Capacity:
    """What the models that `plan_run`, called with the same, will choose can do.

    Raises:
        BadInputError: a given size is out of range, or two don't fit together.
    """
    tokens = TokenFigures(1, text.n_bytes // BYTES_PER_TOKEN, 0)
    budget = given_train.get("budget_seconds") or DEFAULT_BUDGET_SECONDS

    def model_for(kind: TokenizerKind) -> ModelConfig:
        shape, _ = choose_shape(kind, tokens, rate, budget)
        return planned_shape({"n_layers": shape.n_layers, "d_model": shape.d_model, **given_model})

    of_characters = model_for("char")
    n_characters = budget * tokens_per_second(of_characters, rate)
    return Capacity(model_for("bpe"), of_characters, n_characters)
