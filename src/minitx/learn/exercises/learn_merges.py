"""Byte-level BPE by hand: learn the merges

A tokenizer is learned from text, by counting alone. Begin with the text's bytes. Then repeat: count
the pairs, take the most frequent one (of several, the one that comes first in the text), give it
the next free id, 256 at first, and merge it. The list of pairs, in this order, is the tokenizer.
Stop early when no pair occurs twice: a merge that happens once saves nothing.

    vocabulary = 256 bytes + number of merges

Later pairs are made of earlier ids, so that pieces grow: t h -> th, th e -> the.

Paper: Sennrich et al. 2016, section 3.2; over bytes: Radford et al. 2019 (GPT-2), section 2.2.
In minitx: tokenizer/bpe.py: train_bpe
"""

from __future__ import annotations

from minitx.learn.exercises.count_pairs import count_pairs, merge


def learn_merges(text: str, n_merges: int) -> list[tuple[int, int]]:
    """The pairs to merge, in the order learned; pair i gets the id 256 + i."""
    ids = list(text.encode("utf-8"))
    merges: list[tuple[int, int]] = []
    while len(merges) < n_merges:
        counts = count_pairs(ids)
        pair = max(counts, key=lambda pair: counts[pair], default=None)
        if pair is None or counts[pair] < 2:
            break
        ids = merge(ids, pair, 256 + len(merges))
        merges.append(pair)
    return merges


# ---- what the judge reads ------------------------------------------------------------------------

from minitx.learn.trial import Calls, Code, Trial

HINTS = (
    "Count again after every merge: the text has changed, and so have its pairs.",
    "max(counts, key=counts.get) gives the most frequent pair, and of several the one that was "
    "counted first. Merge it with the id 256 + len(merges), then append it. No text, no pairs.",
)
SLIPS = """
It merges characters, not bytes: encode the text as UTF-8 first. There are 256 bytes and a million
characters.
    list(text.encode("utf-8")) -> [ord(c) for c in text]
The merge is noted and not made: without it the same pair wins again and again.
    ids = merge( -> merge(
The new ids begin one too late: the bytes are 0 to 255, so the first new id is 256.
    256 + len(merges) -> 257 + len(merges)
It goes on when no pair occurs twice any more: such a merge saves nothing.
    counts[pair] < 2 -> counts[pair] < 1
Of equally frequent pairs it takes the last: take the one that comes first in the text.
    pair = max(counts, -> pair = max(reversed(counts),
It merges one pair too few: there are n_merges in all.
    len(merges) < n_merges -> len(merges) < n_merges - 1
"""


def _merges(text: str, n_merges: int) -> list[tuple[int, int]]:
    # By brute force, on text in which an id is a character.
    written = text.encode().decode("latin-1")
    merges: list[tuple[int, int]] = []
    for new_id in range(256, 256 + n_merges):
        pairs = [written[i : i + 2] for i in range(len(written) - 1)]
        best = max(map(pairs.count, pairs), default=0)
        if best < 2:
            break
        pair = next(pair for pair in pairs if pairs.count(pair) == best)
        written = written.replace(pair, chr(new_id))
        merges.append((ord(pair[0]), ord(pair[1])))
    return merges


REFERENCE = Code(learn_merges=_merges)


def trials(answer: Code) -> Calls:
    """Texts with ties, with characters of several bytes; one soon used up, and an empty one."""
    texts = {"low lower lowest slow": 6, "über über Übermut": 5, "abcabcab": 9, "abcd": 3, "": 1}
    for text, n in texts.items():
        yield Trial(f"learn_merges({text!r}, {n})", answer.learn_merges, (text, n))
