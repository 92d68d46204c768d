"""Which tokens of a text are answers: of conversations, these alone are learned and scored.

That follows from the ids: an answer is what stands after those that the assistant's turn begins
with, up to and with the one that ends it. So nothing of it is kept beside them.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from minitx.corpus.shards import IdArray
from minitx.tokenizer import Tokenizer

_BLOCK = 1 << 22


class Answers:
    """The answers in the ids of a text, `(tokens,)`, that may be mapped."""

    def __init__(self, ids: IdArray, tokenizer: Tokenizer) -> None:
        opening, ends = (np.array(marks, ids.dtype) for marks in tokenizer.answer_marks)
        at, begins = [np.array([-1])], [np.array([False])]
        for start in range(0, len(ids) if len(opening) else 0, _BLOCK):
            block = ids[start : start + _BLOCK]
            is_opened = _ends_of(opening, ids, start, len(block))
            marks = np.flatnonzero(is_opened | np.isin(block, ends))
            at.append(start + marks)
            begins.append(is_opened[marks])
        # One more at each end, so that there is one before and one after each position.
        self._at = np.concatenate([*at, [len(ids)]])
        self._begins = np.concatenate([*begins, [False]])
        self._has_any = bool(self._begins.any())
        self._begins &= self._at < len(ids) - 1  # After the last id nothing follows.

    def __contains__(self, position: int) -> bool:
        return bool(self.at(np.array([position]))[0])

    def at(self, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Whether the ids at these positions, of any shape, are a part of an answer."""
        is_answer: npt.NDArray[np.bool_] = self._begins[np.searchsorted(self._at, positions) - 1]
        return is_answer

    def __bool__(self) -> bool:
        return self._has_any

    @property
    def share(self) -> float:
        """Which part of the tokens they are."""
        # Each up to the next mark, which is its end; the last may have none.
        n_answers = np.diff(self._at)[self._begins[:-1]].sum() - self._begins[-2]
        return float(n_answers) / max(1, int(self._at[-1]))

    def first_from(self, position: int) -> int:
        """Where the first part of an answer stands from a position on; of the text if none does."""
        if position in self:
            return position
        later = int(np.searchsorted(self._at, position))
        following = np.flatnonzero(self._begins[later:])
        mark = later + int(following[0]) if len(following) else int(self._begins.argmax())
        return int(self._at[mark]) + 1


def answers_in(ids: IdArray, tokenizer: Tokenizer) -> Answers | None:
    """The answers of a text; None where it has no conversations, and all of it is learned from."""
    template = tokenizer.template
    # Any text may spell what another program writes before an answer: it quotes a conversation.
    if template and ids[: len(template.beginning)].tolist() != template.beginning:
        return None
    return Answers(ids, tokenizer) or None


def _ends_of(opening: IdArray, ids: IdArray, start: int, length: int) -> npt.NDArray[np.bool_]:
    """At which ids, `length` from `start` on, these end: `(length,)`."""
    is_end = np.ones(length, bool)
    for before, i in enumerate(opening[::-1]):
        first = min(length, max(0, before - start))
        is_end[:first] = False
        is_end[first:] &= ids[start + first - before : max(0, start + length - before)] == i
    return is_end
