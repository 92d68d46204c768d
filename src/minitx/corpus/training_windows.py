"""Training windows: which stretch of the text each sample is.

Sample k is the same stretch in every run with the same seed, whatever the batch size, and however
often the run was stopped: the order of the data is a function, not a state.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from minitx.corpus.answer_targets import Answers
from minitx.errors import BadInputError

Positions = npt.NDArray[np.int64]

DATA_ORDER = 3
"""The order of new runs; a run keeps the one that it began with."""

NO_TARGET = -100
"""In place of a target that is not learned from: what cross-entropy leaves out."""


@dataclass(frozen=True)
class Windows:
    """Stretches of the text, `(count,)` each: where they start, and their first and last target."""

    starts: Positions
    first: Positions
    last: Positions

    def __getitem__(self, part: slice) -> Windows:
        return Windows(self.starts[part], self.first[part], self.last[part])


_NO_WINDOWS = Windows(*np.empty((3, 0), np.int64))


class WindowSampler:
    """Every token but the first is a target once an epoch, in an order shuffled anew.

    The text is cut into blocks as long as the context, side by side; where the first begins is
    drawn for each epoch, so that over time a token is seen at every position of a window. What is
    left at both ends of the text makes two blocks more, each in a window in which only its own
    tokens are targets. There are `per_epoch` blocks in an epoch, each of which is visited once.

    The order is a permutation that is computed, not kept: a Feistel network over block numbers
    (Luby and Rackoff 1988), keyed by seed and epoch, and walked until it is back in range (Black
    and Rogaway 2002).

    Args:
        n_ids, context_length: of the text, and of a window.
        seed: of order and phases.
        data_order: 1 or 2 for those of earlier versions.

    Raises:
        BadInputError: the text is too short for a window.
    """

    def __init__(
        self, n_ids: int, context_length: int, seed: int, data_order: int = DATA_ORDER
    ) -> None:
        require_one_window(n_ids, context_length, "the train part")
        self._context_length, self._n_targets = context_length, n_ids - 1
        self._seed = seed
        self._earlier = None
        self._last = (-1, -1), _NO_WINDOWS
        # A phase is how many targets before the text the first block begins. Up to `spare`, as many
        # blocks as are needed hold the text, and beyond, one more: whichever has more phases.
        blocks = -(-self._n_targets // context_length)
        spare = blocks * context_length - self._n_targets
        has_more_before = 2 * (spare + 1) >= context_length
        self._phases = (0, spare + 1) if has_more_before else (spare + 1, context_length)
        self.per_epoch = blocks if has_more_before else blocks + 1
        if data_order < DATA_ORDER:
            self._earlier = _EarlierOrder(n_ids, context_length, seed, data_order)
            self.per_epoch = self._earlier.per_epoch

    def windows(self, sample_index: int, count: int) -> Windows:
        """The windows of the samples from `sample_index` on.

        What they are does not depend on `count`: processes that share a batch ask for a part each.
        """
        parts = [_NO_WINDOWS]
        while count > 0:
            epoch, offset = divmod(sample_index, self.per_epoch)
            number, begin = divmod(offset, _AT_ONCE)
            if self._last[0] != (epoch, number):
                self._last = (epoch, number), self._windows_from(epoch, number * _AT_ONCE)
            part = self._last[1][begin : begin + count]
            parts.append(part)
            sample_index, count = sample_index + len(part.starts), count - len(part.starts)
        if len(parts) == 2:
            return parts[1]
        arrays = ("starts", "first", "last")
        return Windows(*(np.concatenate([getattr(p, name) for p in parts]) for name in arrays))

    def _windows_from(self, epoch: int, offset: int) -> Windows:
        # A part of an epoch: computed for a single batch, they would take a tenth of a small step.
        length = self._context_length
        offsets = np.arange(offset, min(offset + _AT_ONCE, self.per_epoch))
        if self._earlier is not None:
            starts = self._earlier.starts(epoch)[offsets]
            return Windows(starts, starts + 1, starts + length)
        # A generator of numbers by position: any epoch is reached without those before it.
        random = np.random.Generator(np.random.Philox(key=(self._seed, epoch)))
        phase = int(random.integers(*self._phases))
        keys = random.integers(2**63, size=_ROUNDS, dtype=np.uint64)
        begins = permuted(offsets, self.per_epoch, keys) * length - phase
        return Windows(
            starts=np.clip(begins, 0, self._n_targets - length),
            first=np.maximum(begins, 0) + 1,
            last=np.minimum(begins + length, self._n_targets),
        )


_AT_ONCE = 4096
"""Windows that are computed, and kept, together."""

_ROUNDS = 6  # Four would do for many blocks; of a few, they favour some orders.


def permuted(numbers: Positions, size: int, keys: npt.NDArray[np.uint64]) -> Positions:
    """Where a permutation of the numbers below `size` takes these; the keys choose which."""
    half = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
    mask = np.uint64((1 << int(half)) - 1)

    def network(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
        left, right = values >> half, values & mask
        for key in keys:
            mixed = (right + key) * np.uint64(0x9E3779B97F4A7C15)
            mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
            left, right = right, left ^ ((mixed >> np.uint64(32)) & mask)
        joined: npt.NDArray[np.uint64] = left << half | right
        return joined

    with np.errstate(over="ignore"):
        values = network(numbers.astype(np.uint64))
        while (outside := values >= size).any():
            values[outside] = network(values[outside])
    return values.astype(np.int64)


class _EarlierOrder:
    """Orders 1 and 2: whole windows, a shuffled list of them for each epoch."""

    def __init__(self, n_ids: int, context_length: int, seed: int, data_order: int) -> None:
        self._context_length = context_length
        self._seed = seed
        self._data_order = data_order
        # The last id is a target only, and the phase may take up to a window less one.
        n_targets = n_ids - 1
        self._phases = min(context_length, n_targets - context_length + 1)
        self.per_epoch = (n_targets - (self._phases - 1)) // context_length
        self._last_phase = n_targets - self.per_epoch * context_length

    def starts(self, epoch: int) -> Positions:
        """Where the windows of an epoch begin: `(per_epoch,)`."""
        # A generator of numbers by position: any epoch is reached without those before it.
        random = np.random.Generator(np.random.Philox(key=(self._seed, epoch)))
        if self._data_order == 1 or epoch % 2 == 0:
            phase = int(random.integers(self._phases))
        else:
            # Up to the end of the text. The first target is in a window at one phase alone, the
            # last at one other; with a margin on both sides, these are drawn often enough.
            margin = self._context_length // 4
            drawn = int(random.integers(-margin, self._last_phase + margin + 1))
            phase = min(max(drawn, 0), self._last_phase)
        return phase + self._context_length * random.permutation(self.per_epoch).astype(np.int64)


def gather(
    ids: npt.NDArray[np.integer[Any]],
    windows: Windows,
    context_length: int,
    answers: Answers | None = None,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Inputs and targets of windows, each `(batch, seq)`: a target is the id after its input, or
    `NO_TARGET`, as all but answers are where there are `answers`."""
    if answers is not None:
        windows = _with_an_answer(windows, len(ids), context_length, answers)
    stretches = ids[windows.starts[:, None] + np.arange(context_length + 1)].astype(np.int64)
    inputs, targets = stretches[:, :-1], stretches[:, 1:]
    partial = np.flatnonzero(windows.last - windows.first + 1 < context_length)
    if len(partial):
        # Both are the same memory.
        targets = targets.copy()
        positions = windows.starts[partial, None] + np.arange(1, context_length + 1)
        is_target = windows.first[partial, None] <= positions
        is_target &= positions <= windows.last[partial, None]
        targets[partial] = np.where(is_target, targets[partial], NO_TARGET)
    if answers is not None:
        is_answer = answers.at(windows.starts[:, None] + np.arange(1, context_length + 1))
        targets = np.where(is_answer, targets, NO_TARGET)
    return inputs, targets


def _with_an_answer(windows: Windows, n_ids: int, context_length: int, answers: Answers) -> Windows:
    """The same windows; the first is another where none has any part of an answer."""
    spans = zip(windows.first, windows.last, strict=True)
    if any(answers.first_from(int(first)) <= last for first, last in spans):
        return windows
    start = min(answers.first_from(int(windows.first[0])), n_ids - context_length) - 1
    starts, first, last = windows.starts.copy(), windows.first.copy(), windows.last.copy()
    starts[0], first[0], last[0] = start, start + 1, start + context_length
    return Windows(starts, first, last)


def require_one_window(n_ids: int, context_length: int, name: str) -> None:
    """Refuse a text too short for a single window, naming both lengths."""
    if n_ids < context_length + 1:
        fits = f"--context {n_ids - 1} or less, or " if n_ids > 1 else ""
        raise BadInputError(
            f"{name} has {n_ids:,} tokens, and one context needs {context_length + 1:,}",
            f"Use {fits}a longer text",
        )
