"""What goes to a terminal: text that can't command it, JSON on one line, paths."""

from __future__ import annotations

import contextlib
import json
import os
import re
from pathlib import Path
from typing import Any

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
    """JSON on one line, in which every control character is an escape: the same value, safe to
    print."""
    text = json.dumps(values, ensure_ascii=False)
    return _UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


# JSON itself escapes those below 0x20.
_UNSAFE = re.compile("[" + "".join(map(chr, sorted(set(_STAND_INS) - set(range(0x20))))) + "]")
