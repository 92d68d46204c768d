"""Tokens as labels: spaces and line ends visible, nothing that moves the cursor, cut to a width."""

from __future__ import annotations

import unicodedata

from rich.cells import cell_len

_VISIBLE = {" ": "␣", "\n": "⏎", "\t": "⇥", "\r": "␍", "\x7f": "␡", "\xa0": "⍽"}
_VISIBLE_ASCII = {" ": "_", "\n": "\\n", "\t": "\\t", "\r": "\\r"}


def token_label(token: str, ascii_only: bool = False) -> str:
    """Text of a token with white space and control characters made visible."""
    return "".join(_shown(character, ascii_only) for character in token) or (
        "?" if ascii_only else "∅"
    )


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


def _shown(character: str, ascii_only: bool) -> str:
    if ascii_only:
        if character in _VISIBLE_ASCII:
            return _VISIBLE_ASCII[character]
        return character if " " < character <= "~" else "?"
    if character in _VISIBLE:
        return _VISIBLE[character]
    if character < " ":
        return chr(0x2400 + ord(character))
    # Format characters turn writing direction around, and unassigned ones have no known width.
    if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs"):
        return "�"
    return character
