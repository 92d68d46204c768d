"""Where a token begins in the text that it helps to make."""

from __future__ import annotations


def place(content: bytes, before: int, after: int) -> int:
    """Characters that stand before a token's own.

    Not always all that there were when it came: if those ended within a character, which the
    token does not go on with, then U+FFFD takes the place of that first.

    Args:
        content: of the token.
        before: characters before it came.
        after: characters when it had come; fewer of its own if a stop string cut them.
    """
    try:
        own = len(content.decode())
    except UnicodeDecodeError:
        return before
    return max(before, after - own)
