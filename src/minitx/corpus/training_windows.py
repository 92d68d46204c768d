"""Training windows: which stretch of the text each sample is.

Sample k is the same stretch in every run with the same seed, whatever the batch size, and however
often the run was stopped: the order of the data is a function, not a state.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from minitx.errors import BadInputError

Starts = npt.NDArray[np.int64]

DATA_ORDER = 2
"""The order of new runs; a run keeps the one that it began with."""


class WindowSampler:
    """Every window once an epoch, in an order shuffled anew, at a new phase.

    Windows lie side by side; where the first begins is drawn for each epoch, so that over time a
    token is seen at every position of a window, and every token but the first is a target. A
    window needs one token more than the context, as its last target. There are `per_epoch` windows
    in an epoch.

    Args:
        n_ids, context_length: of the text, and of a window.
        seed: of order and phases.
        data_order: 1 for that of earlier versions, to which the end of a text was no target.

    Raises:
        BadInputError: the text is too short for a window.
    """

    def __init__(
        self, n_ids: int, context_length: int, seed: int, data_order: int = DATA_ORDER
    ) -> None:
        require_one_window(n_ids, context_length, "the train part")
        self._context_length = context_length
        self._seed = seed
        self._data_order = data_order
        # The last id is a target only, and the phase may take up to a window less one.
        n_targets = n_ids - 1
        self._phases = min(context_length, n_targets - context_length + 1)
        self.per_epoch = (n_targets - (self._phases - 1)) // context_length
        self._last_phase = n_targets - self.per_epoch * context_length
        self._epoch = -1
        self._order: Starts = np.empty(0, np.int64)

    def starts(self, sample_index: int, count: int) -> Starts:
        """Where windows begin: `(count,)`, of the samples from `sample_index` on."""
        parts = []
        while count > 0:
            epoch, offset = divmod(sample_index, self.per_epoch)
            if epoch != self._epoch:
                self._epoch, self._order = epoch, self._shuffled(epoch)
            part = self._order[offset : offset + count]
            parts.append(part)
            sample_index, count = sample_index + len(part), count - len(part)
        return np.concatenate(parts) if parts else np.empty(0, np.int64)

    def _shuffled(self, epoch: int) -> Starts:
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
    ids: npt.NDArray[np.integer[Any]], starts: Starts, context_length: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Inputs and targets of windows, each `(batch, seq)`: a target is the id after its input."""
    windows = ids[starts[:, None] + np.arange(context_length + 1)].astype(np.int64)
    return windows[:, :-1], windows[:, 1:]


def require_one_window(n_ids: int, context_length: int, name: str) -> None:
    """Refuse a text too short for a single window, naming both lengths."""
    if n_ids < context_length + 1:
        fits = f"--context {n_ids - 1} or less, or " if n_ids > 1 else ""
        raise BadInputError(
            f"{name} has {n_ids:,} tokens, and one context needs {context_length + 1:,}",
            f"Use {fits}a longer text",
        )
