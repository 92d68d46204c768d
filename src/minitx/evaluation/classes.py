"""Loss by kind of token: what does the model find hard?

Every token is of one class, by its first character that is no space (`` the`` is a letter), or
`space` if it has no other. A token of letters is a new word if no letter precedes it, in-word
otherwise. By how often the train part has it, every token is in one of five groups.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from minitx.corpus.encoded_file import release
from minitx.evaluation.arrays import GroupedSums, IdArray, IntArray
from minitx.tokenizer import Tokenizer

CLASSES = ("space", "new word", "in-word", "digit", "punctuation", "other")
LETTER_KINDS = ("new word", "in-word")

_COUNTED_AT_ONCE = 1 << 22
_SPACE, _NEW_WORD, _IN_WORD, _DIGIT, _PUNCTUATION, _OTHER = range(len(CLASSES))

CLASS_GROUPS: dict[str, tuple[int, ...]] = {
    "space": (_SPACE,),
    "letter": (_NEW_WORD, _IN_WORD),
    **{name: (i,) for i, name in enumerate(CLASSES) if i != _SPACE},
}
"""What is shown: each class, and before those of letters the two together."""

FREQUENCIES = (
    ("the commonest half", 0.5),
    ("next 40 %", 0.9),
    ("next 9 %", 0.99),
    ("rarest 1 %", 1.0),
    ("never seen", 1.0),
)
"""Groups of tokens by the part of the train text that they and all commoner ones make up."""

FREQUENCY_GROUPS = {name: (i,) for i, (name, _) in enumerate(FREQUENCIES)}


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


def group_losses(sums: GroupedSums, groups: Mapping[str, Sequence[int]]) -> tuple[ClassLoss, ...]:
    """The groups that have tokens, each made of some of those by which losses were summed."""
    all_tokens, all_nats = sums.counts.sum(), sums.sums[0].sum()
    losses: list[ClassLoss] = []
    for name, members in groups.items():
        tokens, nats = (float(row[list(members)].sum()) for row in (sums.counts, sums.sums[0]))
        if tokens:
            share, share_of_loss = tokens / all_tokens, nats / all_nats if all_nats else 0.0
            losses.append(
                ClassLoss(name, int(tokens), float(share), nats / tokens, float(share_of_loss))
            )
    return tuple(losses)


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
