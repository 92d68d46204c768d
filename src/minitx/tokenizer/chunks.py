"""Long texts in chunks, cut only where no token can cross."""

from __future__ import annotations

import re
from collections.abc import Iterator

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


def chunks(text: str, size: int, border: Border | None) -> Iterator[str]:
    """Cut a text at the first border after each `size` characters; None gives it whole.

    The chunks joined are the text; none is empty.
    """
    start = 0
    while border is not None and len(text) - start > size:
        found = border.search(text, start + size)
        if found is None:
            break
        yield text[start : found.start()]
        start = found.start()
    if start < len(text):
        yield text[start:]
