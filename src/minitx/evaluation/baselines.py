"""What a model must beat, on the same split and the same bytes: counting, and compressors.

For texts too large to count in memory, n-grams and compressors get the end of the train part and
the beginning of the text; the report says how much of each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from minitx.evaluation.bits import TextSize, bits_per, token_sizes
from minitx.evaluation.compressors import compress_holdout, compressor_names
from minitx.evaluation.ngrams import ORDERS, NGrams
from minitx.evaluation.report import Baselines, NGramFigures
from minitx.tokenizer import Tokenizer

IdArray = npt.NDArray[np.integer]
ByteArray = npt.NDArray[np.uint8]

MOST_TRAIN_TOKENS = 5_000_000
MOST_TOKENS = 2_000_000
MOST_TRAIN_BYTES = 16_000_000
MOST_BYTES = 8_000_000

_PART = 1 << 20


def measure_baselines(
    tokenizer: Tokenizer,
    ids: IdArray,
    size: TextSize,
    content: ByteArray,
    index: npt.NDArray[np.int64] | None,
    train_ids: IdArray | None,
    train_content: ByteArray | None,
    phase: Callable[[str], None] | None = None,
) -> Baselines:
    """Measure all baselines at hand.

    Args:
        tokenizer: of the ids.
        ids: of the text.
        size: of the text.
        content: `(bytes,)` the text itself, in UTF-8.
        index: of the ids that the model was scored on; None for all but the first.
        train_ids: what n-grams are counted on; None without a train part.
        train_content: `(bytes,)` what compressors read first; None without a train part.
        phase: told what is measured next.
    """
    tell = phase or (lambda name: None)
    tell("counting n-grams")
    ngrams, n_tokens, n_train = _ngrams(tokenizer, ids, size, index, train_ids)
    text = content[:MOST_BYTES]
    train = None if train_content is None else train_content[-MOST_TRAIN_BYTES:]
    compressed = []
    for name in compressor_names():
        tell(f"compressing with {name}")
        parts = None if train is None else _parts(train)
        compressed.append(compress_holdout(name, parts, _parts(text)))
    return Baselines(
        ngrams=ngrams,
        compressors=tuple(compressed),
        train_tokens=n_train,
        tokens=n_tokens,
        text_bytes=len(text),
        train_bytes=0 if train is None else len(train),
    )


def _ngrams(
    tokenizer: Tokenizer,
    ids: IdArray,
    size: TextSize,
    index: npt.NDArray[np.int64] | None,
    train_ids: IdArray | None,
) -> tuple[tuple[NGramFigures, ...], int, int]:
    sizes = token_sizes(tokenizer)
    part = np.asarray(ids[:MOST_TOKENS], dtype=np.int64)
    targets = np.arange(1, len(part)) if index is None else index[index < len(part)]
    if not len(targets):
        # The model was scored on a far part alone; its beginning will have to do.
        targets = np.arange(1, len(part))
    n_bytes = float(sizes[part[targets]].sum())
    if len(targets) == len(ids) - 1:
        n_bytes = size.without(tokenizer.token_bytes(int(ids[0]))).n_bytes
    losses = [math.log(tokenizer.vocab_size)]
    train = np.empty(0, np.int64)
    if train_ids is not None and len(train_ids):
        train = np.asarray(train_ids[-MOST_TRAIN_TOKENS:], dtype=np.int64)
        by_order = NGrams(train, tokenizer.vocab_size, ORDERS).losses(part)
        losses += [float(row[targets - 1].mean()) for row in by_order]
    figures = tuple(
        NGramFigures(order, loss, bits_per(loss * len(targets), n_bytes))
        for order, loss in enumerate(losses)
    )
    return figures, len(targets), len(train)


def _parts(content: ByteArray) -> Callable[[], Iterator[bytes]]:
    def parts() -> Iterator[bytes]:
        for start in range(0, len(content), _PART):
            yield content[start : start + _PART].tobytes()

    return parts
