"""What a model must beat, on the same split and the same bytes: counting, and compressors.

Of a text too large to count and compress, all of them get the beginning, and the model's figure
for that beginning stands beside theirs; of a large train part they get the end. The report says
how much of each.

A compressor is a model, too: its bits per byte of the holdout compare with the model's. Like the
model it may learn from the train part first, so the figure shown is what the holdout adds to that:
the size of both compressed together, less that of the train part compressed alone. The size of the
holdout on its own is kept beside it. gzip looks back 32 KB, bzip2 works in blocks of 900 KB; xz and
zstd here see all that is compressed.
"""

from __future__ import annotations

import bz2
import contextlib
import importlib
import lzma
import math
import zlib
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from minitx.evaluation.arrays import ByteArray, IdArray, bits_per, token_sizes
from minitx.evaluation.holdout_figures import Baselines, Compressed, NGramFigures
from minitx.evaluation.ngrams import ngram_losses
from minitx.evaluation.text_score import Beginning, ScoredText
from minitx.tokenizer import Tokenizer

MOST_TRAIN_TOKENS = 5_000_000
MOST_TRAIN_BYTES = 16_000_000
MOST_BYTES = 4_000_000
"""Of a text, what is counted and compressed."""

_AT_ONCE = 1 << 20
_ZSTD_LEVEL, _ZSTD_WINDOW = 19, 26


class _Compressor(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...

    def flush(self) -> bytes: ...


def measure_baselines(
    tokenizer: Tokenizer,
    text: ScoredText,
    scored: Beginning,
    train_ids: IdArray,
    train_content: ByteArray,
    tell: Callable[[str], None],
    only_answers: bool = False,
) -> Baselines:
    """Measure all baselines at hand.

    Args:
        scored: what the model was scored on, of the beginning of the text or all of it.
        train_ids: `(tokens,)` what n-grams are counted on; empty without a train part.
        train_content: `(bytes,)` what compressors read first; empty without a train part.
        tell: called with what is measured next.
        only_answers: whether those of conversations were scored alone; nothing is compressed then.
    """
    tell("counting n-grams")
    ids, content = text.ids, text.content
    part = np.asarray(ids[: scored.n_ids], dtype=np.int64)
    train = np.asarray(train_ids[-MOST_TRAIN_TOKENS:], dtype=np.int64)
    index = np.concatenate(scored.index)
    sizes, n_tokens = token_sizes(tokenizer), len(index)
    n_bytes = float(sizes[ids[index]].sum())
    if n_tokens == len(ids) - 1:
        # What unknown tokens stand for is known for the text as a whole.
        n_bytes = text.scored_size(tokenizer)[0]
    losses = [math.log(tokenizer.vocab_size)]
    if len(train):
        by_order = ngram_losses(train, part, tokenizer.vocab_size)
        losses += [float(of_order[index - 1].mean()) for of_order in by_order]
    if len(part) < len(ids):
        content = content[: int(sizes[part].sum())]
    before = train_content[-MOST_TRAIN_BYTES:]
    compressed = []
    # These have no figure for the answers alone.
    for name in compressors() if not only_answers else ():
        tell(f"compressing with {name}")
        compressed.append(compress_holdout(name, before, content))
    return Baselines(
        ngrams=tuple(
            NGramFigures(order, loss, bits_per(loss * n_tokens, n_bytes))
            for order, loss in enumerate(losses)
        ),
        compressors=tuple(compressed),
        train_tokens=len(train),
        tokens=n_tokens,
        text_bytes=len(content),
        train_bytes=len(before),
        model_loss=scored.nats / n_tokens,
        model_bits_per_byte=bits_per(scored.nats, n_bytes),
    )


def compressors() -> dict[str, Callable[[], _Compressor]]:
    """The compressors at hand, by name; each call begins anew."""
    at_hand: dict[str, Callable[[], _Compressor]] = {
        "gzip": lambda: zlib.compressobj(9, zlib.DEFLATED, 31),
        "bzip2": lambda: bz2.BZ2Compressor(9),
        "xz": lambda: lzma.LZMACompressor(preset=9 | lzma.PRESET_EXTREME),
    }
    if zstd := _zstd():
        at_hand["zstd"] = zstd
    return at_hand


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


def compress_holdout(name: str, train: ByteArray, holdout: ByteArray) -> Compressed:
    """Measure one compressor; the texts, both `(bytes,)`, stream through it.

    Without a train part the holdout, which has some bytes, stands alone.
    """
    make = compressors()[name]
    alone = _size(make(), holdout)
    added = _size(make(), train, holdout) - _size(make(), train) if len(train) else alone
    return Compressed(name, 8 * added / len(holdout), 8 * alone / len(holdout))


def _size(compressor: _Compressor, *texts: ByteArray) -> int:
    size = 0
    for text in texts:
        for start in range(0, len(text), _AT_ONCE):
            size += len(compressor.compress(text[start : start + _AT_ONCE].tobytes()))
    return size + len(compressor.flush())
