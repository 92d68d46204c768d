"""Long texts in chunks, cut only where no token can cross."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator

from tokenizers.pre_tokenizers import PreTokenizer

Border = re.Pattern[str]

ANYWHERE: Border = re.compile("")
"""For tokenizers whose tokens are single characters."""

# Before a space that stands alone between two characters that are no white space: in no piece of
# the patterns below does white space other than a line end follow something else.
_WORD_START = r"(?<=\S)(?= \S)"

LINE_START: Border = re.compile(rf"(?<=\n)(?=[^\r\n])|{_WORD_START}")
"""After a line feed, before a character of the next line that is not empty; or before a word.

Safe for a pre-tokenizer none of whose pieces has something else after a line end, and none of
whose lookaheads passes one. Then the piece before the border ends there with or without the rest
of the text, and what follows does not depend on what came before.
"""

LINE_END: Border = re.compile(rf"(?<=\S\n)(?=\S)|{_WORD_START}")
"""After a line feed that stands alone between characters that are no white space; or before a word.

Also safe where white space is matched as ``\\s+(?!\\S)|\\s+``, as GPT-2 does, or after
``\\s*[\\r\\n]+``, as Llama 3 does: a single line feed ends a piece by each.
"""

# White space before something else may be cut in another way where the text ends with it. (To
# Python, but not to the patterns, U+001C to U+001F are white space.)
_SAFE_END = re.compile(r"(?<=\S)|(?=[^\S\x1c-\x1f])")

PieceStarts = Callable[[str], Iterable[int]]
"""Where in a text the pieces begin that no token crosses, in order."""

_TRAINING_CHUNK = 65_536
_LOOKAHEAD = 3
"""Characters after a piece that may decide where it ends, as a word after a run of spaces does."""


def training_chunks(
    texts: Iterable[str], cut: PreTokenizer, border: Border = LINE_START
) -> Iterator[str]:
    """Each text in chunks that begin where a piece does, as the library is trained on them."""
    for text in texts:
        yield from chunks(
            text, _TRAINING_CHUNK, border,
            lambda part: (start for _, (start, _) in cut.pre_tokenize_str(part)),
        )  # fmt: skip


def chunks(
    text: str, size: int, border: Border | None, starts: PieceStarts = lambda part: ()
) -> list[str]:
    """Cut a text at the first border after each `size` characters; None gives it whole.

    Where none is near, as in a text without spaces, a chunk ends where a piece starts. The chunks
    joined are the text; none is empty.
    """
    parts: list[str] = []
    start = 0
    while border is not None and len(text) - start > size:
        cut = _next_cut(text, start, size, border, starts)
        if cut is None:
            break
        parts.append(text[start:cut])
        start = cut
    return [*parts, text[start:]] if text else []


def _next_cut(text: str, start: int, size: int, border: Border, starts: PieceStarts) -> int | None:
    near = start + 2 * size
    match = border.search(text, start + size, near)
    if match is None and near < len(text):
        # A piece starts at `start`, so that those of this part are those of the text but the last.
        # Where white space may go on, a line end that is yet to come may take all of it.
        part = text[start:near]
        known = min(len(part.rstrip()) if border is LINE_END else near, 2 * size - _LOOKAHEAD)
        sure = [start + i for i in starts(part) if 0 < i <= known]
        safe = [cut for cut in sure if _SAFE_END.match(text, cut)]
        if safe:
            return safe[-1]
        match = border.search(text, near)
    return match.start() if match else None
