"""Loss by kind of token: what does the model find hard?

Every token is of one class, by its first character that is no space (`` the`` is a letter), or
`space` if it has no other. A token of letters is a new word if no letter precedes it, in-word
otherwise. By how often the train part has it, every token is in one of five groups.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from minitx.corpus.encoded_file import release
from minitx.evaluation.arrays import Float32Array, IdArray, IntArray
from minitx.tokenizer import Tokenizer

CLASSES = ("space", "new word", "in-word", "digit", "punctuation", "other")
LETTER_KINDS = ("new word", "in-word")

_COUNTED_AT_ONCE = 1 << 22
_SPACE, _NEW_WORD, _IN_WORD, _DIGIT, _PUNCTUATION, _OTHER = range(len(CLASSES))

FREQUENCIES = (
    ("the commonest half", 0.5),
    ("next 40 %", 0.9),
    ("next 9 %", 0.99),
    ("rarest 1 %", 1.0),
    ("never seen", 1.0),
)
"""Groups of tokens by the part of the train text that they and all commoner ones make up."""


@dataclass(frozen=True)
class ClassLoss:
    """Loss of some kind of token.

    Attributes:
        tokens, share: that were scored, and their share of all that were.
        loss: nats per token.
        share_of_loss: of the total loss.
    """

    name: str
    tokens: int
    share: float
    loss: float
    share_of_loss: float


class GroupLosses:
    """Sums losses by group as they stream by."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._tokens = np.zeros(len(names))
        self._nats = np.zeros(len(names))

    def add(self, group: IdArray, losses: Float32Array) -> None:
        """Add losses and the group of each."""
        self._tokens += np.bincount(group, minlength=len(self._names))
        self._nats += np.bincount(group, losses.astype(np.float64), len(self._names))

    def result(self) -> list[ClassLoss]:
        """The groups that have tokens, in order of their names' list."""
        tokens, nats = self._tokens.sum(), self._nats.sum()
        return [
            ClassLoss(
                name=name,
                tokens=int(self._tokens[i]),
                share=float(self._tokens[i] / tokens),
                loss=float(self._nats[i] / self._tokens[i]),
                share_of_loss=float(self._nats[i] / nats) if nats else 0.0,
            )
            for i, name in enumerate(self._names)
            if self._tokens[i]
        ]


def with_letters(classes: Sequence[ClassLoss]) -> list[ClassLoss]:
    """The classes with `letter`, which is `new word` and `in-word` together, before these two."""
    kinds = [group for group in classes if group.name in LETTER_KINDS]
    shown: list[ClassLoss] = []
    for group in classes:
        if kinds and group is kinds[0]:
            tokens = sum(kind.tokens for kind in kinds)
            letter = ClassLoss(
                name="letter",
                tokens=tokens,
                share=sum(kind.share for kind in kinds),
                loss=sum(kind.loss * kind.tokens for kind in kinds) / tokens,
                share_of_loss=sum(kind.share_of_loss for kind in kinds),
            )
            shown.append(letter)
        shown.append(group)
    return shown


class TokenClasses:
    """Tells the class of tokens in a text."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        # A part of a character is not text, and ends up in `other`.
        texts = [
            "" if i == tokenizer.unknown_id else tokenizer.token_bytes(i).decode("utf-8", "replace")
            for i in range(tokenizer.vocab_size)
        ]
        self._class = np.array([_class(text) for text in texts], dtype=np.int64)
        self._ends_in_letter = np.array([text[-1:].isalpha() for text in texts])
        self._starts_with_letter = np.array([text[:1].isalpha() for text in texts])

    def of(self, targets: IdArray, before: IdArray) -> IntArray:
        """Index into `CLASSES` of each target, given the token before it; all `(n,)`."""
        classes: IntArray = self._class[targets].copy()
        inside = self._starts_with_letter[targets] & self._ends_in_letter[before]
        classes[(classes == _NEW_WORD) & inside] = _IN_WORD
        return classes


def count_ids(ids: IdArray, vocab_size: int) -> IntArray:
    """How often a text has each id, `(vocab_size,)`; a memory map is read in pieces."""
    counts = np.zeros(vocab_size, np.int64)
    for start in range(0, len(ids), _COUNTED_AT_ONCE):
        counts += np.bincount(ids[start : start + _COUNTED_AT_ONCE], minlength=vocab_size)
        release(ids)
    return counts


def frequency_groups(train_counts: IdArray) -> IntArray:
    """Index into `FREQUENCIES` of each id, by how often the train part has it; `(vocab_size,)`."""
    order = np.argsort(-train_counts, kind="stable")
    total = max(1, int(train_counts.sum()))
    # Share of all more common ids: so the most common id is in the first group, even if it is all.
    before = (np.cumsum(train_counts[order]) - train_counts[order]) / total
    bounds = [limit for _, limit in FREQUENCIES[:3]]
    groups = np.empty(len(train_counts), dtype=np.int64)
    groups[order] = np.searchsorted(bounds, before, side="right")
    groups[train_counts == 0] = len(FREQUENCIES) - 1
    return groups


def _class(text: str) -> int:
    if not text:
        return _OTHER
    stripped = text.lstrip()
    if not stripped:
        return _SPACE
    first = stripped[0]
    if first.isalpha():
        return _NEW_WORD
    if first.isnumeric():
        return _DIGIT
    # Symbols such as + and $ read as punctuation; U+FFFD is what could not be decoded.
    if unicodedata.category(first)[0] in "PS" and first != "\ufffd":
        return _PUNCTUATION
    return _OTHER
