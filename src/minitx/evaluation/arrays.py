"""The arrays that evaluation works with; shapes and units stand where they are used."""

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
