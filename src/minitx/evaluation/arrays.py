"""The arrays that evaluation works with, and sums of them by group."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

ByteArray = npt.NDArray[np.uint8]
IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
Float32Array = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]
IdArray = npt.NDArray[np.integer]
"""Token ids of any integer type, perhaps a memory map."""


class GroupedSums:
    """Counts targets by group and sums up figures of them, as they stream by.

    Attributes:
        counts: `(groups,)` targets.
        sums: `(figures, groups)`.
    """

    def __init__(self, n_groups: int, n_figures: int = 1) -> None:
        self.counts = np.zeros(n_groups)
        self.sums = np.zeros((n_figures, n_groups))

    def add(self, group: IdArray, *figures: npt.NDArray[np.generic]) -> None:
        """Add targets: the group of each, and its figures, all `(n,)`."""
        self.counts += np.bincount(group, minlength=len(self.counts))
        for sums, figure in zip(self.sums, figures, strict=True):
            sums += np.bincount(group, figure.astype(np.float64), len(self.counts))
