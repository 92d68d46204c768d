"""What goes to a terminal: text that can't command it, paths, JSON on one line, token labels."""

from __future__ import annotations

import contextlib
import json
import os
import re
import unicodedata
from pathlib import Path
from typing import Any

from rich.cells import cell_len

from minitx.files import shell_word

_KEPT = "\n\t"
_REPLACEMENT = "\ufffd"

# Unicode Standard Annex 9: these turn the direction of writing, so that a line reads as another.
_BIDI_CONTROLS = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"

_STAND_INS: dict[int, str] = {
    # Control pictures: U+2400 to U+241F draw the C0 controls, U+2421 draws DEL.
    **{code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in _KEPT},
    0x7F: "\u2421",
    # C1 controls: U+009B alone begins a control sequence, as ESC [ does.
    **dict.fromkeys(range(128, 160), _REPLACEMENT),
    **{ord(character): _REPLACEMENT for character in _BIDI_CONTROLS},
    # Line and paragraph separators break a line for Python, but for few terminals.
    0x2028: "\u2424",
    0x2029: "\u2424",
    # A lone surrogate has no UTF-8 form: printing it would raise.
    **dict.fromkeys(range(55296, 57344), _REPLACEMENT),
}


def visible(text: str) -> str:
    """The text with a visible stand-in, one column wide, for each control character.

    Line feeds and tabs stay; the caller knows what they do to its layout. ESC becomes ``␛``, a
    carriage return ``␍``; controls that have no picture, and those that turn the direction of
    writing, become U+FFFD. As many characters come out as went in.
    """
    return text.translate(_STAND_INS)


def going_on(sentence: str) -> str:
    """A sentence as it is written after a colon; a name in capitals stays one."""
    return sentence[:1].lower() + sentence[1:] if sentence[1:2].islower() else sentence


def printed_name(name: Path | str) -> str:
    """A name of a file or run as it is printed: on one line, without control characters."""
    return visible(str(name)).replace("\n", "\u240a").replace("\t", "\u2409")


def run_path(path: Path | str) -> str:
    """Write a path for people: relative where it is below the working directory."""
    return printed_name(_relative(path))


def run_word(path: Path) -> str:
    """The same as a word of a command line, which names the path whatever is in it."""
    return shell_word(_relative(path))


def _relative(path: Path | str) -> str:
    # resolve() would follow links, and show a name the person never typed.
    absolute = Path(os.path.abspath(path))  # noqa: PTH100
    with contextlib.suppress(ValueError):
        return str(absolute.relative_to(Path.cwd()))
    return str(path)


def json_line(values: Any) -> str:
    """JSON on one line, with an escape for every control character: safe to print."""
    text = json.dumps(values, ensure_ascii=False)
    return _UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


# JSON itself escapes those below 0x20.
_UNSAFE = re.compile("[" + "".join(map(chr, sorted(set(_STAND_INS) - set(range(0x20))))) + "]")


# ---- tokens: spaces and line ends visible, cut to a width ----------------------------------------

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
    # Not loaded, with NumPy, where a shell completes a name.
    from minitx.tokenizer.conversation import without_marks

    named = without_marks(text)
    return "".join(c if c == " " else token_label(c, ascii_only) for c in named)


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
