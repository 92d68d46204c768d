"""Tokens as labels: spaces and line ends visible, nothing that moves the cursor, cut to a width."""

from __future__ import annotations

import unicodedata

from rich.cells import cell_len

from minitx.report.terminal.printable import visible

_VISIBLE = str.maketrans({" ": "␣", "\n": "⏎", "\t": "⇥", "\xa0": "⍽"})
_VISIBLE_ASCII = {" ": "_", "\n": "\\n", "\t": "\\t", "\r": "\\r"}


def token_label(token: str, ascii_only: bool = False) -> str:
    """Text of a token with white space and control characters made visible."""
    if ascii_only:
        shown = (_VISIBLE_ASCII.get(c, c if " " < c <= "~" else "?") for c in token)
        return "".join(shown) or "?"
    # Format characters turn writing direction around, and unassigned ones have no known width.
    unsafe = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs")
    shown = (
        "\ufffd" if unicodedata.category(c) in unsafe else c
        for c in visible(token.translate(_VISIBLE))
    )
    return "".join(shown) or "∅"


def text_label(text: str, ascii_only: bool = False) -> str:
    """Text of several tokens: a space as itself, all else that is invisible made visible."""
    return "".join(c if c == " " else token_label(c, ascii_only) for c in text)


def cut_label(label: str, width: int, ascii_only: bool = False) -> str:
    """At most `width` columns of a label; one that was cut ends in a mark."""
    if cell_len(label) <= width:
        return label
    mark = "~" if ascii_only else "…"
    kept = ""
    for character in label:
        if cell_len(kept + character) > width - 1:
            break
        kept += character
    return (kept + mark)[: max(width, 0)]


def vertical_label(label: str, height: int, ascii_only: bool = False) -> list[str]:
    """A label written downwards, one character a line, at most `height` lines."""
    characters: list[str] = []
    for character in label:
        if characters and cell_len(character) == 0:
            characters[-1] += character
        else:
            characters.append(character)
    if len(characters) > height:
        characters = [*characters[: height - 1], "~" if ascii_only else "⋮"]
    return characters


def pad_label(label: str, width: int, right: bool = False) -> str:
    """Fill a label with spaces to `width` columns, counting wide characters as two."""
    fill = " " * max(0, width - cell_len(label))
    return fill + label if right else label + fill
