"""How much of what a model generates is copied from its train part.

A text's copied share is the part of its bytes that lies in some stretch of at least `COPY_BYTES`
bytes that is in the train part, too. Natural language repeats itself: the same measure on as much
of the holdout says how much copying to expect.

Stretches are compared by hash (Karp and Rabin 1987) in arrays, and every match is checked byte by
byte. The longest one is found by bisection: where a stretch of n bytes is shared, so is one of
n - 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from minitx.config import SamplingConfig
from minitx.evaluation.arrays import ByteArray, IdArray, IntArray
from minitx.generation import generate
from minitx.model import Transformer
from minitx.tokenizer import Tokenizer

HashArray = npt.NDArray[np.uint64]

COPY_BYTES = 32
"""Shorter shared stretches are phrases that anyone may use."""

MOST_TRAIN_BYTES = 64_000_000
"""Of the train part, the end that is searched."""

_STRETCHES = 8
_STRETCH_TOKENS = 160
_PROMPT_TOKENS = 16
_AT_ONCE = 1 << 22
_BASE = np.uint64(0x9E3779B97F4A7C15)
_INVERSE = np.uint64(pow(int(_BASE), -1, 2**64))
# A value of its own for each byte, drawn once, so that sums of small numbers don't collide.
_VALUES = np.random.default_rng(20).integers(0, 2**64, 256, dtype=np.uint64)


@dataclass(frozen=True)
class Copied:
    """What some texts share with the train part.

    Attributes:
        n_bytes: of the texts.
        copied_share: part of them that lies in shared stretches of `COPY_BYTES` or more.
        longest, longest_bytes: the longest shared stretch, as text, and its length.
    """

    n_bytes: int
    copied_share: float
    longest: str
    longest_bytes: int


def find_copied(texts: Sequence[str], train: ByteArray, least: int = COPY_BYTES) -> Copied:
    """Look for stretches of texts in the train part.

    Args:
        texts: short; they are in memory several times over.
        train: `(bytes,)` UTF-8 of the train part; a memory map is read in pieces.
        least: bytes from which on a shared stretch counts as copied.
    """
    parts = [np.frombuffer(text.encode("utf-8", "replace"), np.uint8) for text in texts]
    text = _Text(parts)
    covered = np.zeros(len(text.content), np.bool_)
    longest, start = 0, 0
    for begin in range(0, max(1, len(train)), _AT_ONCE):
        # Pieces of the train part overlap, so that no shared stretch is cut.
        hashes = _Hashes(np.asarray(train[begin : begin + _AT_ONCE + text.longest]))
        edges = np.zeros(len(covered) + 1, np.int64)
        shared = text.shared_with(hashes, least)
        edges[shared] += 1
        edges[shared + least] -= 1
        covered |= np.cumsum(edges[:-1]) > 0
        longest, start = _longest(text, hashes, longest, start)
    longest_text = text.content[start : start + longest].tobytes().decode("utf-8", "ignore")
    share = float(covered.mean()) if len(covered) else 0.0
    return Copied(len(covered), share, longest_text, longest)


def stretches(tokenizer: Tokenizer, ids: IdArray, length: int = _STRETCH_TOKENS) -> list[str]:
    """Evenly spaced pieces of a text, of `length` tokens each."""
    count = max(1, min(_STRETCHES, len(ids) // length))
    starts = [i * len(ids) // count for i in range(count)]
    return [tokenizer.decode(np.asarray(ids[start : start + length])) for start in starts]


def sample_texts(model: Transformer, tokenizer: Tokenizer, ids: IdArray) -> list[str]:
    """As much text from a model as `stretches` takes from `ids`; pieces of `ids` are prompts."""
    n_prompt_tokens = min(_PROMPT_TOKENS, max(1, model.config.context_length // 2))
    prompts = [
        prompt
        for prompt in stretches(tokenizer, ids, n_prompt_tokens)
        # A lone unknown character can't be continued, and its stand-in has no id.
        if prompt and not tokenizer.unknown_characters(prompt)
    ]
    if not prompts:
        return []
    config = SamplingConfig(max_new_tokens=_STRETCH_TOKENS)
    return [sample.text for sample in generate(model, tokenizer, prompts, config)]


class _Hashes:
    """Hashes of all stretches of some bytes, of whatever length is asked for."""

    def __init__(self, content: ByteArray) -> None:
        self.content = content
        with np.errstate(over="ignore"):
            powers = np.full(len(content) + 1, _BASE, np.uint64)
            inverses = np.full(len(content) + 1, _INVERSE, np.uint64)
            powers[0] = inverses[0] = 1
            powers, self._inverses = np.cumprod(powers), np.cumprod(inverses)
            self._sums = np.zeros(len(content) + 1, np.uint64)
            np.cumsum(_VALUES[content] * powers[:-1], out=self._sums[1:])

    def of_length(self, n: int) -> HashArray:
        """`(bytes - n + 1,)` hash of the n bytes from each position on."""
        starts = len(self.content) - n + 1
        if starts <= 0:
            return np.empty(0, np.uint64)
        with np.errstate(over="ignore"):
            sums: HashArray = (self._sums[n:] - self._sums[:starts]) * self._inverses[:starts]
        return sums


class _Text:
    """Several texts in a row; no stretch runs from one into the next."""

    def __init__(self, parts: Sequence[ByteArray]) -> None:
        self.content = np.concatenate([*parts, np.empty(0, np.uint8)])
        self.longest = max(map(len, parts), default=0)
        self._ends = np.repeat(np.cumsum([len(part) for part in parts]), [len(p) for p in parts])
        self._hashes = _Hashes(self.content)

    def shared_with(self, train: _Hashes, n: int) -> IntArray:
        """Where stretches of n bytes begin that the other bytes have too."""
        mine = self._hashes.of_length(n)
        in_one_text = np.arange(len(mine)) + n <= self._ends[: len(mine)]
        theirs = train.of_length(n)
        if not in_one_text.any() or not len(theirs):
            return np.empty(0, np.int64)
        known, which = np.unique(mine[in_one_text], return_inverse=True)
        nearest = np.minimum(np.searchsorted(known, theirs), len(known) - 1)
        hits = np.flatnonzero(known[nearest] == theirs)
        # Where each of our hashes is found over there; -1 where it is not.
        positions = np.full(len(known), -1)
        positions[nearest[hits]] = hits
        starts = np.flatnonzero(in_one_text)
        positions = positions[which.reshape(-1)]
        starts, positions = starts[positions >= 0], positions[positions >= 0]
        same = [
            np.array_equal(self.content[s : s + n], train.content[p : p + n])
            for s, p in zip(starts.tolist(), positions.tolist(), strict=True)
        ]
        return starts[np.array(same, dtype=np.bool_)] if same else starts


def _longest(text: _Text, train: _Hashes, longest: int, start: int) -> tuple[int, int]:
    """The longest shared stretch and where it begins, if longer than the one known."""
    low, high = longest, text.longest
    step = 16
    while low < high:
        # Most stretches are short: look near the known length first, then further away.
        n = min(low + step, high, (low + high + 1) // 2)
        shared = text.shared_with(train, n)
        if len(shared):
            low, start = n, int(shared[0])
            step *= 2
        else:
            high = n - 1
    return low, start
