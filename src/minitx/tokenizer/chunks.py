"""Long texts in chunks, cut only where no token can cross."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

Border = re.Pattern[str]

ANYWHERE: Border = re.compile("")
"""For tokenizers whose tokens are single characters."""

LINE_START: Border = re.compile(r"(?<=\n)(?=[^\r\n])")
"""After a line feed, before a character of the next line that is not empty.

Safe for a pre-tokenizer none of whose pieces has something else after a line end, and none of
whose lookaheads passes one. Then the piece before the border ends there with or without the rest
of the text, and what follows does not depend on what came before.
"""

LINE_END: Border = re.compile(r"(?<=\S\n)(?=\S)")
"""After a line feed that stands alone between two characters that are no white space.

Also safe where white space is matched as ``\\s+(?!\\S)|\\s+``, as GPT-2 does: a single line feed
is a piece of its own by either.
"""

_TRAINING_CHUNK = 65_536


def training_chunks(texts: Iterable[str]) -> Iterator[str]:
    """Each text in chunks that begin where a line does, as the library is trained on them."""
    for text in texts:
        yield from chunks(text, _TRAINING_CHUNK, LINE_START)


def chunks(text: str, size: int, border: Border | None) -> list[str]:
    """Cut a text at the first border after each `size` characters; None gives it whole.

    The chunks joined are the text; none is empty.
    """
    parts: list[str] = []
    start = 0
    while border is not None and (cut := border.search(text, start + size)):
        if cut.start() == len(text):
            break
        parts.append(text[start : cut.start()])
        start = cut.start()
    return [*parts, text[start:]] if text else []
