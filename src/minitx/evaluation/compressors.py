"""General-purpose compressors on the same text: a bar that a language model must clear.

A compressor is a model, too: its bits per byte of the holdout compare with the model's. Like the
model it may learn from the train part first, so the figure shown is what the holdout adds to that:
the size of both compressed together, less that of the train part compressed alone. The size of the
holdout on its own is kept beside it.

gzip looks back 32 KB, bzip2 works in blocks of 900 KB; xz and zstd here see all of a train part of
up to 64 MB.
"""

from __future__ import annotations

import bz2
import contextlib
import importlib
import itertools
import lzma
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

Parts = Callable[[], Iterable[bytes]]

_ZSTD_LEVEL, _ZSTD_WINDOW = 19, 26


class _Compressor(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...

    def flush(self) -> bytes: ...


@dataclass(frozen=True)
class Compressed:
    """What a compressor needs for the holdout: added to a compressed train part, and alone."""

    name: str
    bits_per_byte: float
    bits_per_byte_alone: float


def compressor_names() -> list[str]:
    """The compressors at hand."""
    return list(_compressors())


def compress_holdout(name: str, train: Parts | None, holdout: Parts) -> Compressed:
    """Measure one compressor; the texts stream through it.

    `train` (None: the holdout stands alone) and `holdout` (not empty) give their bytes in parts,
    anew at each call.
    """
    make = _compressors()[name]
    n_bytes = sum(len(part) for part in holdout())
    alone = _size(make(), holdout())
    if train is None:
        return Compressed(name, 8 * alone / n_bytes, 8 * alone / n_bytes)
    before = _size(make(), train())
    together = _size(make(), itertools.chain(train(), holdout()))
    return Compressed(name, 8 * (together - before) / n_bytes, 8 * alone / n_bytes)


def _compressors() -> dict[str, Callable[[], _Compressor]]:
    compressors: dict[str, Callable[[], _Compressor]] = {
        "gzip": lambda: zlib.compressobj(9, zlib.DEFLATED, 31),
        "bzip2": lambda: bz2.BZ2Compressor(9),
        "xz": lambda: lzma.LZMACompressor(preset=9 | lzma.PRESET_EXTREME),
    }
    if zstd := _zstd():
        compressors["zstd"] = zstd
    return compressors


def _zstd() -> Callable[[], _Compressor] | None:
    # In the standard library from Python 3.14 on; before, there is a package.
    with contextlib.suppress(ImportError):
        zstd: Any = importlib.import_module("compression.zstd")
        parameter = zstd.CompressionParameter
        options = {
            parameter.compression_level: _ZSTD_LEVEL,
            parameter.window_log: _ZSTD_WINDOW,
            parameter.enable_long_distance_matching: 1,
        }
        return lambda: zstd.ZstdCompressor(options=options)
    with contextlib.suppress(ImportError):
        zstandard: Any = importlib.import_module("zstandard")
        parameters = zstandard.ZstdCompressionParameters.from_level(
            _ZSTD_LEVEL, window_log=_ZSTD_WINDOW, enable_ldm=True
        )
        return lambda: zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    return None


def _size(compressor: _Compressor, parts: Iterable[bytes]) -> int:
    return sum(len(compressor.compress(part)) for part in parts) + len(compressor.flush())
