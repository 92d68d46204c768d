"""A tokenizer as llama.cpp runs it: a vocabulary, merges, and the name of a cut.

llama.cpp has the cuts built in. It looks nothing up for a piece that is not made of entries: of an
unknown character it drops the bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from minitx.errors import BadInputError
from minitx.tokenizer.base import Ids, Tokenizer
from minitx.tokenizer.bpe import (
    CHARACTER_OF_BYTE,
    GPT2_PATTERN,
    PATTERN,
    QWEN2_PATTERN,
    BytePairTokenizer,
    cut_by,
)
from minitx.tokenizer.conversation import TOKENS
from minitx.tokenizer.word_level import CharTokenizer

_CUTS = {"llama-bpe": PATTERN, "qwen2": QWEN2_PATTERN, "gpt-2": GPT2_PATTERN}
_WHOLE_ENTRIES = "llama-bpe"  # The cut with which a piece that is an entry is that token.


class EntryType(IntEnum):
    """What an entry is, in llama.cpp's numbers."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5


@dataclass(frozen=True)
class LlamaVocabulary:
    """What llama.cpp needs to be told of a tokenizer.

    Attributes:
        cut: the name of the rule that cuts a text into pieces.
        entries: text of each id, in which a character stands for a byte.
        types: of the entries.
        merges: pairs of texts, with a space between, the first merged first.
    """

    cut: str
    entries: list[str]
    types: list[EntryType]
    merges: list[str]


def llama_vocabulary(tokenizer: Tokenizer, n_ids: int, corpus: Iterable[str]) -> LlamaVocabulary:
    """The vocabulary of a tokenizer, with unused entries up to `n_ids`.

    Args:
        corpus: read where the tokenizer's own cut is not one of llama.cpp's: it must give the same
            ids by one that is.

    Raises:
        BadInputError: llama.cpp would make other ids of a text.
    """
    if not isinstance(tokenizer, (BytePairTokenizer, CharTokenizer)):
        raise BadInputError(
            "llama.cpp has no tokenizer that looks up whole words"
            if tokenizer.kind == "word"
            else "the tokenizer is of SentencePiece, of which minitx writes no GGUF",
            "Train with --kind bpe"
            if tokenizer.kind == "word"
            else "Convert the model that it is from with llama.cpp's convert_hf_to_gguf.py",
        )
    special = {tokenizer.unknown_id: EntryType.UNKNOWN, tokenizer.end_id: EntryType.CONTROL}
    added = tokenizer.backend.get_added_tokens_decoder()
    for token_id, token in added.items():
        special[token_id] = EntryType.CONTROL if token.special else EntryType.USER_DEFINED
    names = {i: TOKENS[role] for role, i in tokenizer.roles.items()}
    special |= dict.fromkeys(names, EntryType.CONTROL)
    entries = [
        names.get(i) or str(tokenizer.backend.id_to_token(i))
        if i in special
        else "".join(CHARACTER_OF_BYTE[byte] for byte in tokenizer.token_bytes(i))
        for i in range(tokenizer.vocab_size)
    ]
    types = [special.get(i, EntryType.NORMAL) for i in range(len(entries))]
    unused = range(len(entries), n_ids)
    if isinstance(tokenizer, CharTokenizer):
        # No merge goes on from one character to the next: none begins with a byte that another
        # character goes on with. Whatever the cut, the ids are the same. llama.cpp wants at least
        # one merge; no text has the byte FF.
        joined = (e for e, kind in zip(entries, types, strict=True) if kind == EntryType.NORMAL)
        steps = (f"{entry[:n]} {entry[n]}" for entry in joined for n in range(1, len(entry)))
        cut, merges = "gpt-2", [*dict.fromkeys(steps), "ÿ ÿ"]
    else:
        cut = _cut_of(tokenizer, corpus)
        model = json.loads(tokenizer.json_bytes)["model"]
        merges = [" ".join(pair) for pair in model["merges"]]
    return LlamaVocabulary(
        cut,
        [*entries, *(f"[unused {i}]" for i in unused)],
        [*types, *(EntryType.UNUSED for _ in unused)],
        merges,
    )


def _cut_of(tokenizer: BytePairTokenizer, corpus: Iterable[str]) -> str:
    """The name of the tokenizer's cut, or of one that makes the same ids of a corpus."""
    definition = json.loads(tokenizer.json_bytes)
    takes_whole = bool(definition["model"].get("ignore_merges"))
    for name, pattern in _CUTS.items():
        if tokenizer.pattern == pattern and takes_whole == (name == _WHOLE_ENTRIES):
            return name
    if _cuts_as_smollm(definition["pre_tokenizer"]):
        return "smollm"
    others = {name: _with_cut(definition, name) for name in _CUTS}
    n_tokens, differing = 0, dict.fromkeys(others, 0)
    for text in corpus:
        own = tokenizer.encode(text)
        n_tokens += len(own)
        for name, other in others.items():
            differing[name] += _n_differing(tokenizer, own, other.encode(text))
    name = min(differing, key=differing.__getitem__)
    share = f"{differing[name] / max(n_tokens, 1):.2%}"
    if n_tokens and not differing[name]:
        return name
    raise BadInputError(
        "llama.cpp does not know how this tokenizer cuts a text"
        + (f", and would make others of {share} of its text's tokens" if n_tokens else ""),
        "Train again with a new tokenizer (leave out --tokenizer): those of this version are cut "
        "by a rule that llama.cpp has",
    )


def _cuts_as_smollm(pre_tokenizer: dict[str, Any]) -> bool:
    """Whether each digit is a piece, and the rest is cut as GPT-2 does."""
    steps = pre_tokenizer.get("pretokenizers", [])
    wanted: list[dict[str, Any]] = [
        {"type": "Digits", "individual_digits": True},
        {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
    ]
    return len(steps) == 2 and all(
        step == {**step, **keys} for step, keys in zip(steps, wanted, strict=True)
    )


def _with_cut(definition: dict[str, Any], name: str) -> BytePairTokenizer:
    model = {**definition["model"], "ignore_merges": name == _WHOLE_ENTRIES}
    cut = json.loads(cut_by(_CUTS[name]).__getstate__())
    return BytePairTokenizer({**definition, "model": model, "pre_tokenizer": cut})


def _n_differing(tokenizer: Tokenizer, own: Ids, other: Ids) -> int:
    """How many of a text's tokens another way of cutting it does not have at the same place."""
    if np.array_equal(own, other):
        return 0
    sizes = np.array([len(tokenizer.token_bytes(i)) for i in range(tokenizer.vocab_size)])

    def spans(ids: Ids) -> npt.NDArray[np.int64]:
        ends: npt.NDArray[np.int64] = np.cumsum(sizes[ids])
        ends = (ends << 20) + sizes[ids]
        return ends

    return int((~np.isin(spans(own), spans(other))).sum())
