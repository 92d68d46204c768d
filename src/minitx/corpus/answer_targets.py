"""Which tokens of a text are answers: of conversations, these alone are learned and scored.

That follows from the ids: an answer is what stands after the token of the assistant, up to and with
the end of the text. So nothing of it is kept beside them.
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
        marks = np.array([*tokenizer.roles.values(), tokenizer.end_id], ids.dtype)
        parts = [
            start + np.flatnonzero(np.isin(ids[start : start + _BLOCK], marks))
            for start in range(0, len(ids), _BLOCK)
        ]
        # Two more, so that there is one before and one after each position.
        self._at = np.concatenate([[-1], *parts, [len(ids)]])
        begins = ids[self._at[1:-1]] == tokenizer.roles["assistant"]
        begins &= self._at[1:-1] < len(ids) - 1  # After the last id nothing follows.
        self._begins = np.concatenate([[False], begins, [False]])

    def __contains__(self, position: int) -> bool:
        return bool(self.at(np.array([position]))[0])

    def at(self, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Whether the ids at these positions, of any shape, are a part of an answer."""
        is_answer: npt.NDArray[np.bool_] = self._begins[np.searchsorted(self._at, positions) - 1]
        return is_answer

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
    if not tokenizer.roles:
        return None
    assistant = tokenizer.roles["assistant"]
    blocks = range(0, len(ids), _BLOCK)
    has = any((ids[start : start + _BLOCK] == assistant).any() for start in blocks)
    return Answers(ids, tokenizer) if has else None
