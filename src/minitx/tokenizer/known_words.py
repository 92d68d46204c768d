"""Ids of words that were encoded before: most of a long text is a few thousand of them.

The library cuts a text into words, and these into tokens, at a few megabytes a second. Here the
`re` of Python cuts it, and the library is asked only for words that are new. Its Unicode is another
version than Python's: characters whose kind has changed are left to it, with the text around them.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from functools import cache

import numpy as np

from minitx.tokenizer.base import Ids

WORTH_IT = 1 << 17
"""Characters of text from which on this is faster than the library alone."""

_MOST = 1 << 17
_CODES = 0x20000  # Beyond are rare characters of Chinese, and none that is assigned.


class KnownWords:
    """Words with their ids, as far as they fit a few megabytes.

    Args:
        pattern: of a word, for the library, with classes of `_classes` alone.
        ids_of: asks the library for the ids of texts.
    """

    def __init__(
        self,
        pattern: str,
        ids_of: Callable[[list[str]], list[Ids]],
    ) -> None:
        classes, known = _classes()
        names = re.compile("|".join(map(re.escape, classes)))
        word = names.sub(lambda name: f"[{classes[name[0]]}]", pattern)
        # What is of no kind is a word of one character, which is never known.
        self._words_in = re.compile(f"{word}|(?s:.)").findall
        self._is_strange = re.compile(f"[^{known}]").fullmatch
        self._ids_of = ids_of
        self._known: dict[str, bytes] = {}

    def ids(self, texts: list[str]) -> list[Ids]:
        """The ids of texts, as the library gives them."""
        known = self._known
        words = [self._words_in(text) for text in texts]
        new = [word for word in set().union(*words) if word not in known]
        strange = set(filter(self._is_strange, new))
        new = [word for word in new if word not in strange]
        known.update(
            (word, ids.tobytes()) for word, ids in zip(new, self._ids_of(new), strict=True)
        )
        result = [
            np.frombuffer(b"".join(map(known.__getitem__, own)), np.int32)
            if strange.isdisjoint(own)
            else self._ids_of([text])[0]
            for text, own in zip(texts, words, strict=True)
        ]
        if len(known) > _MOST:
            self._known = {}
        return result


@cache
def _classes() -> tuple[dict[str, str], str]:
    """The classes of the library's patterns in that of Python, and all characters that are of a
    kind: of which all versions of Unicode say the same."""
    then = unicodedata.ucd_3_2_0
    members: dict[str, list[int]] = {kind: [] for kind in "LMNSO"}
    for code in range(_CODES):
        character = chr(code)
        now, before = unicodedata.category(character), then.category(character)
        kind = _kind(character, now)
        # What had no kind is among the others, too.
        is_settled = kind == _kind(character, before) or (before == "Cn" and kind == "O")
        if is_settled and now not in ("Cn", "Cs") and character not in "\r\n":
            members[kind].append(code)
    letters, marks, numbers, blanks, others = map(_as_class, members.values())
    solid = letters + marks + numbers + others
    classes = {
        r"[^\s\p{L}\p{M}\p{N}]": others, r"[^\s\p{L}\p{N}]": marks + others,
        r"[^\r\n\p{L}\p{N}]": blanks + marks + others,
        r"[\p{L}\p{M}]": letters + marks, r"[^\S\r\n]": blanks,
        r"\p{L}": letters, r"\p{N}": numbers, r"\s": f"{blanks}\r\n", r"\S": solid,
    }  # fmt: skip
    return classes, f"{solid}{blanks}\r\n"


def _kind(character: str, category: str) -> str:
    if category[0] in "LMN":
        return category[0]
    # To Python alone, the separators of ASCII are white space.
    return "S" if character.isspace() and not "\x1c" <= character <= "\x1f" else "O"


def _as_class(codes: list[int]) -> str:
    ranges: list[list[int]] = []
    for code in codes:
        if ranges and ranges[-1][1] == code - 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    return "".join(f"\\U{first:08x}-\\U{last:08x}" for first, last in ranges)
