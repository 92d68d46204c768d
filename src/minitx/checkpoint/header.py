"""The header of a safetensors file, checked before anything of that size is allotted."""

from __future__ import annotations

import os
from pathlib import Path

from minitx.errors import DamagedFileError
from minitx.files import open_plain_file

LARGEST_HEADER = 8 << 20
"""Bytes; tens of thousands of tensors fit."""


def require_sound_header(path: Path) -> None:
    """Refuse a file whose header can't be one: its length, and how its JSON begins.

    What the header says (types, shapes, offsets) is checked against the file by safetensors.

    Raises:
        DamagedFileError: it is no plain file, too short, or its header is longer than any.
    """
    fix = "Use another checkpoint, or write this one again"
    try:
        with open_plain_file(path) as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > size - 8:
                raise ValueError(f"it has {size:,} bytes, fewer than its header says")
            if length > LARGEST_HEADER:
                raise ValueError(f"its header of {length:,} bytes is longer than any")
            if file.read(1) != b"{":
                raise ValueError("its header is not JSON")
    except OSError as error:
        raise DamagedFileError(f"{path} can't be read ({error.strerror})", fix) from None
    except ValueError as error:
        raise DamagedFileError(f"{path} can't be used: {error}", fix) from None
