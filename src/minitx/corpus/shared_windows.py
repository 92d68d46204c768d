"""Which bytes of a text stand in a much longer one, too, in one pass over that.

Of the text, the hashes of all its windows of some bytes (48, if nothing else is said) are kept,
sorted. Of the long one, the window at every 16th byte is looked up among them. A stretch of 63
bytes that both have holds such a window, wherever it stands, so that none is missed. A shorter one
of 48 bytes or more may be found. Hashes have 64 bits: of a million million comparisons, one in ten
million would be wrong.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

ByteArray = npt.NDArray[np.uint8]
IntArray = npt.NDArray[np.int64]
HashArray = npt.NDArray[np.uint64]
BoolArray = npt.NDArray[np.bool_]

WINDOW, STRIDE = 48, 16
SURE = WINDOW + STRIDE - 1
"""Bytes from which on a stretch in common is always found."""

_WORD = 8
_FACTORS = np.random.default_rng(16).integers(0, 2**63, WINDOW // _WORD, np.uint64) * 2 + 1
_MIX = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Stretches:
    """Stretches in common: from and to which byte of the text, and from which of the other one."""

    start: IntArray
    end: IntArray
    place: IntArray

    def covered(self, n_bytes: int) -> BoolArray:
        """Whether each byte of the text, which has so many, lies in one of them."""
        edges = np.zeros(n_bytes + 1, np.int32)
        np.add.at(edges, self.start, 1)
        np.add.at(edges, self.end, -1)
        result: BoolArray = np.cumsum(edges[:-1]) > 0
        return result


class SharedWindows:
    """The windows of a text that were seen in another one.

    Args:
        content: `(bytes,)` the text; some 30 bytes of memory are needed for each of it.
        limits: rising; no stretch crosses one of these positions: the ends of documents.
        window, stride: bytes of a window, 48 at most, and between those that are looked up; both
            multiples of 8.
    """

    def __init__(
        self, content: ByteArray, limits: IntArray, window: int = WINDOW, stride: int = STRIDE
    ) -> None:
        self._content, self._limits = content, limits
        self._window, self._stride = window, stride
        hashes = np.empty(max(0, len(content) - window + 1), np.uint64)
        for offset in range(min(_WORD, len(hashes))):
            hashes[offset::_WORD] = self._hashes(content[offset:], _WORD)
        self._known, number = np.unique(hashes, return_inverse=True)
        self._number = number.astype(np.uint32)
        del hashes, number
        self._seen_at = np.full(len(self._known), -1, np.int64)

    def look_up(self, piece: ByteArray, start: int, limits: IntArray) -> None:
        """Look for windows of a piece of the long text, which begins at byte `start`, a multiple of
        the stride, and shares a window less a stride with the next one. `limits` are that text's.
        """
        hashes = self._hashes(piece, self._stride)
        if not len(self._known) or not len(hashes):
            return
        order = np.argsort(hashes)  # Neighbours are found near each other.
        hashes = hashes[order]
        slot = np.minimum(np.searchsorted(self._known, hashes), len(self._known) - 1)
        hits = np.flatnonzero(self._known[slot] == hashes)
        slot, place = slot[hits], start + self._stride * order[hits]
        new = (self._seen_at[slot] < 0) & self._within(place, limits)
        # Of equal windows the first: what is assigned last stays.
        slot, place = slot[new], place[new]
        first = np.argsort(-place, kind="stable")
        self._seen_at[slot[first]] = place[first]

    def stretches(self, other: ByteArray, limits: IntArray) -> Stretches:
        """The stretches in common, to their first and last byte, given the whole other text."""
        place = self._seen_at[self._number]
        start = np.flatnonzero(place >= 0)
        start = start[self._within(start, self._limits)]
        place = place[start]
        # Windows that were seen one after the other are one stretch.
        order = np.lexsort((start, place - start))
        start, place = start[order], place[order]
        apart = (np.diff(place - start) != 0) | (np.diff(start) > self._window)
        is_first = np.append(True, apart)[: len(start)]
        end = start[np.append(apart, True)[: len(start)]] + self._window
        start, place = start[is_first], place[is_first]
        before = np.minimum(
            start - _last_limit(self._limits, start), place - _last_limit(limits, place)
        )
        shift = place - start
        last = end - 1
        after = np.minimum(
            _next_limit(self._limits, last) - end, _next_limit(limits, last + shift) - end - shift
        )
        # The window before the first is not in common, nor is the one after the last.
        for i in range(self._stride - 1):
            grows = np.flatnonzero(before > i)
            same = self._content[start[grows] - 1] == other[place[grows] - 1]
            before[grows[~same]] = 0
            start[grows[same]] -= 1
            place[grows[same]] -= 1
            grows = np.flatnonzero(after > i)
            same = self._content[end[grows]] == other[end[grows] + shift[grows]]
            after[grows[~same]] = 0
            end[grows[same]] += 1
        return Stretches(start, end, place)

    def longest(self, stretches: Stretches, other: ByteArray, limits: IntArray, most: int) -> bytes:
        """The longest of the stretches, or its first `most` bytes; in a text that repeats itself it
        may go on where others begin."""
        if not len(stretches.start):
            return b""
        i = int((stretches.end - stretches.start).argmax())
        start, place = int(stretches.start[i]), int(stretches.place[i])
        for ends, position in ((self._limits, start), (limits, place)):
            most = min(most, int(ends[np.searchsorted(ends, position, side="right")]) - position)
        own, theirs = self._content[start : start + most], other[place : place + most]
        differ = np.flatnonzero(own != theirs)
        return own[: differ[0] if len(differ) else most].tobytes()

    def _hashes(self, content: ByteArray, step: int) -> HashArray:
        """Hash of the window at every `step`-th byte, a multiple of 8."""
        words = content[: len(content) // _WORD * _WORD].view("<u8")
        step, n_words = step // _WORD, self._window // _WORD
        n = len(words) - n_words + 1
        if n <= 0:
            return np.empty(0, np.uint64)
        with np.errstate(over="ignore"):
            words = (words ^ (words >> np.uint64(29))) * _MIX
            words ^= words >> np.uint64(32)
            total: HashArray = words[:n:step] * _FACTORS[0]
            for i in range(1, n_words):
                total += words[i : i + n : step] * _FACTORS[i]
        return total

    def _within(self, starts: IntArray, limits: IntArray) -> BoolArray:
        """Whether the windows that begin there end before the next limit, or at it."""
        result: BoolArray = _next_limit(limits, starts) - starts >= self._window
        return result


def _next_limit(limits: IntArray, positions: IntArray) -> IntArray:
    """The first limit after each position."""
    return limits[np.searchsorted(limits, positions, side="right")]


def _last_limit(limits: IntArray, positions: IntArray) -> IntArray:
    """The last limit before each position, or at it; 0 where there is none."""
    return np.append(0, limits)[np.searchsorted(limits, positions, side="right")]
