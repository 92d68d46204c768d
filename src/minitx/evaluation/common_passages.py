"""Passages that texts have in common, found exactly.

A text's copied share is the part of its bytes that lies in some stretch of at least so many bytes
that is in another text, too. Stretches are compared by hash (Karp and Rabin 1987) in arrays, and
every match is checked byte by byte. The longest one is found by bisection: where a stretch of n
bytes is shared, so is one of n - 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from minitx.evaluation.arrays import ByteArray, IntArray

HashArray = npt.NDArray[np.uint64]

COPY_BYTES = 32
"""Shorter shared stretches are phrases that anyone may use."""

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
    # UTF-8 has no such byte, so that no shared stretch runs from one text into the next.
    content = b"\xff".join(text.encode("utf-8", "replace") for text in texts)
    n_bytes = len(content) - max(0, len(texts) - 1)
    longest_text = max((len(text) for text in content.split(b"\xff")), default=0)
    text = _Hashes(np.frombuffer(content, np.uint8))
    covered = np.zeros(len(content), np.bool_)
    longest, start = 0, 0
    for begin in range(0, max(1, len(train)), _AT_ONCE):
        # Pieces of the train part overlap, so that no shared stretch is cut.
        piece = _Hashes(np.asarray(train[begin : begin + _AT_ONCE + longest_text]))
        edges = np.zeros(len(covered) + 1, np.int64)
        shared = _shared(text, piece, least)
        edges[shared] += 1
        edges[shared + least] -= 1
        covered |= np.cumsum(edges[:-1]) > 0
        longest, start = _longest(text, piece, longest, start, longest_text)
    share = float(covered.sum() / n_bytes) if n_bytes else 0.0
    longest_copy = content[start : start + longest].decode("utf-8", "ignore")
    return Copied(n_bytes, share, longest_copy, longest)


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


def _shared(text: _Hashes, train: _Hashes, n: int) -> IntArray:
    """Where stretches of n bytes begin in a text that the train part has too."""
    own, theirs = text.of_length(n), train.of_length(n)
    if not len(own) or not len(theirs):
        return np.empty(0, np.int64)
    known, which = np.unique(own, return_inverse=True)
    nearest = np.minimum(np.searchsorted(known, theirs), len(known) - 1)
    hits = np.flatnonzero(known[nearest] == theirs)
    # Where each of our hashes is found over there; -1 where it is not.
    positions = np.full(len(known), -1)
    positions[nearest[hits]] = hits
    positions = positions[which.reshape(-1)]
    starts = np.flatnonzero(positions >= 0)
    same = np.empty(len(starts), np.bool_)
    at_once = max(1, _AT_ONCE // n)
    for i in range(0, len(starts), at_once):
        chosen = starts[i : i + at_once]
        ours = sliding_window_view(text.content, n)[chosen]
        same[i : i + at_once] = (
            ours == sliding_window_view(train.content, n)[positions[chosen]]
        ).all(axis=1)
    return starts[same]


def _longest(
    text: _Hashes, train: _Hashes, longest: int, start: int, limit: int
) -> tuple[int, int]:
    """The longest shared stretch and where it begins, if longer than the one known."""
    low, high, step = longest, limit, 16
    while low < high:
        # Most stretches are short: look near the known length first, then further away.
        n = min(low + step, high, (low + high + 1) // 2)
        shared = _shared(text, train, n)
        if len(shared):
            low, start = n, int(shared[0])
            step *= 2
        else:
            high = n - 1
    return low, start
