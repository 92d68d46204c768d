"""Encode a text, and decode it again

To encode: the text's bytes, then every merge in the order in which it was learned. The order is the
tokenizer: a later pair is made of ids that earlier merges write. To decode: put the bytes of all
ids one behind the other, and read the whole as UTF-8. An id below 256 is one byte; 256 + i is what
its pair spells, part by part.

    decode(encode(text)) == text       for every text there is

A character may be cut in two: "ü" is two bytes, and no merge need join them. So bytes are joined
first and read afterwards. What is no UTF-8 becomes "�" (errors="replace"), as when a model writes
half a character.

Paper: Radford et al. 2019 (GPT-2), section 2.2.
In minitx: tokenizer/base.py: Tokenizer.encode
"""

from __future__ import annotations

from minitx.learn.exercises.count_pairs import merge


def encode(text: str, merges: list[tuple[int, int]]) -> list[int]:
    """Ids of a text; pair i of `merges` has the id 256 + i."""
    ids = list(text.encode("utf-8"))
    for i, pair in enumerate(merges):
        ids = merge(ids, pair, 256 + i)
    return ids


def decode(ids: list[int], merges: list[tuple[int, int]]) -> str:
    """The text that ids stand for."""
    pieces = [bytes([byte]) for byte in range(256)]
    for first, second in merges:
        pieces.append(pieces[first] + pieces[second])
    return b"".join(pieces[i] for i in ids).decode("utf-8", errors="replace")


# ---- what the judge reads ------------------------------------------------------------------------

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from minitx.learn.trial import Calls, Code, Trial
from minitx.tokenizer.bpe import CHARACTER_OF_BYTE

HINTS = (
    "encode is a loop over the merges that calls your merge. For decode, make a list of the bytes "
    "of every id: 256 single bytes first, then one entry for each merge.",
    "The entry of a merge is pieces[first] + pieces[second], and both are there by then. Join the "
    'pieces of all ids, and only then .decode("utf-8", errors="replace").',
)
SLIPS = """
The merges are applied in the wrong order, last first: a later pair is made of ids that earlier
merges write, so nothing is left for it to find.
    in enumerate(merges): -> in reversed(list(enumerate(merges))):
The ids of merges begin at 0, where the bytes are: pair i has the id 256 + i.
    merge(ids, pair, 256 + i) -> merge(ids, pair, i)
It encodes characters, not bytes: the ids of a text begin as its UTF-8 bytes.
    list(text.encode("utf-8")) -> [ord(c) for c in text]
Each id is read as UTF-8 by itself, which breaks characters whose bytes lie in two ids: join the
bytes first.
    b"".join(pieces[i] for i in ids).decode("utf-8", errors="replace")
    -> "".join(pieces[i].decode("utf-8", errors="replace") for i in ids)
The two parts of a pair are put together in the wrong order.
    pieces[first] + pieces[second] -> pieces[second] + pieces[first]
Bytes that are no UTF-8 vanish: half a character becomes �, with errors="replace".
    errors="replace" -> errors="ignore"
"""


def _tokenizer(merges: list[tuple[int, int]]) -> Tokenizer:
    spelled = [CHARACTER_OF_BYTE[byte] for byte in range(256)]
    pairs = []
    for first, second in merges:
        pairs.append((spelled[first], spelled[second]))
        spelled.append("".join(pairs[-1]))
    backend = Tokenizer(models.BPE({piece: i for i, piece in enumerate(spelled)}, pairs))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return backend


REFERENCE = Code(
    encode=lambda text, merges: _tokenizer(merges).encode(text).ids,
    decode=lambda ids, merges: _tokenizer(merges).decode(ids),
)
_MERGES = [(108, 111), (256, 119), (195, 188), (257, 101), (32, 257), (195, 156)]


def trials(answer: Code) -> Calls:
    """Merges of merges, characters of two bytes, and half of one."""
    for text in ("low lower slow", "für Übung", "日本 lo"):
        yield Trial(f"encode({text!r}, merges)", answer.encode, (text, _MERGES))
    for ids in ([260, 259, 114], [102, 195, 188, 114], [76, 258, 195], [261, 98, 195, 156]):
        yield Trial(f"decode({ids}, merges)", answer.decode, (ids, _MERGES))
