"""Byte-level BPE by hand: count pairs, merge one

A model reads numbers. Text is bytes first: 256 ids, and every text can be written in them. But they
are many, and attention pays for the square of their number. Byte-pair encoding shortens a text:
take the pair of neighbours that occurs most often, and write a new id wherever it stands.

    ids     97 98 97 98 97        "ababa"
    pairs   (97, 98): 2, (98, 97): 2
    merge   (97, 98) -> 256:      256 256 97

Pairs overlap when they are counted. When they are merged, each id is used once, from the left.

Paper: Sennrich et al. 2016, section 3.2, algorithm 1.
In minitx: tokenizer/bpe.py: train_bpe
"""

from __future__ import annotations


def count_pairs(ids: list[int]) -> dict[tuple[int, int], int]:
    """How often each pair of neighbours occurs."""
    counts: dict[tuple[int, int], int] = {}
    for pair in zip(ids, ids[1:], strict=False):
        counts[pair] = counts.get(pair, 0) + 1
    return counts


def merge(ids: list[int], pair: tuple[int, int], new_id: int) -> list[int]:
    """The ids with `new_id` wherever `pair` stands, from the left."""
    merged: list[int] = []
    i = 0
    while i < len(ids):
        if tuple(ids[i : i + 2]) == pair:
            merged.append(new_id)
            i += 2
        else:
            merged.append(ids[i])
            i += 1
    return merged


# ---- what the judge reads ------------------------------------------------------------------------

import re
import numpy as np

from minitx.learn.trial import Calls, Code, Trial

HINTS = (
    "zip(ids, ids[1:]) gives each id with the next one. A dict from pair to count does the rest.",
    "For merge, walk with an index: where ids[i] and ids[i + 1] are the pair, write new_id and go "
    "on two places, else write ids[i] and go on one. Mind the last id, which has no neighbour.",
)
SLIPS = """
Pairs are taken two by two, so every second one is missing: they overlap, and each id but the last
begins one.
    zip(ids, ids[1:], -> zip(ids[::2], ids[1::2],
The order within a pair is lost: (a, b) and (b, a) are two pairs.
    for pair in zip(ids, ids[1:], strict=False):
    -> for pair in map(tuple, map(sorted, zip(ids, ids[1:], strict=False))):
The last pair is not counted: the range ends one too early.
    ids[1:], -> ids[1:-1],
After a merge the second half of the pair is read again: go on two places, not one.
    i += 2 -> i += 1
The last id is lost when no pair ends there: go on to the end.
    while i < len(ids): -> while i < len(ids) - 1:
It merges the pair in either order: (b, a) is another pair.
    tuple(ids[i : i + 2]) == pair -> sorted(ids[i : i + 2]) == sorted(pair)
"""


def _counted(ids: list[int]) -> dict[tuple[int, int], int]:
    pairs = np.stack([ids[:-1], ids[1:]], axis=1)
    rows, counts = np.unique(pairs, axis=0, return_counts=True)
    return {(int(a), int(b)): int(n) for (a, b), n in zip(rows, counts, strict=True)}


def _merged(ids: list[int], pair: tuple[int, int], new_id: int) -> list[int]:
    # As text, in which an id is a character: replacing goes from the left without overlap.
    text = "".join(map(chr, ids))
    return [ord(c) for c in re.sub(re.escape("".join(map(chr, pair))), chr(new_id), text)]


REFERENCE = Code(count_pairs=_counted, merge=_merged)


def trials(answer: Code) -> Calls:
    """Short texts, with runs of one letter, where counting and merging differ."""
    for text in ("ababa", "hello hello", "aaaa baaab"):
        ids = list(text.encode())
        yield Trial(f"count_pairs(ids), the bytes of {text!r}", answer.count_pairs, (ids,))
    for text, pair in (("ababa", (97, 98)), ("aaaab", (97, 97)), ("abba", (97, 98))):
        ids = list(text.encode())
        about = f"merge(ids, {pair}, 256), ids the bytes of {text!r}"
        yield Trial(about, answer.merge, (ids, pair, 256))
