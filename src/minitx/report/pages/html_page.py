"""Self-contained pages: parts in `pages/`, filled in without a template language."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from minitx.errors import BadInputError


def template(name: str) -> str:
    """The text of a file in `pages/`."""
    return (files("minitx.report.pages") / name).read_text(encoding="utf-8")


def fill(page: str, parts: dict[str, str]) -> str:
    """A template with each `{{name}}` replaced by its part, which must be HTML already.

    All are replaced in one pass, so that a part which looks like a placeholder is left alone.
    """
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], page)


def safe_json(value: Any) -> str:
    """JSON that can't end the script element that it stands in."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def write_page(page: str, path: Path) -> None:
    """Write a page as UTF-8.

    Raises:
        BadInputError: when it can't be written.
    """
    try:
        # A lone surrogate has no UTF-8 form; a page shows such text with a question mark.
        path.write_text(page, encoding="utf-8", errors="replace")
    except OSError as error:
        raise BadInputError(
            f"{path} can't be written ({error.strerror})", "Choose another file"
        ) from None


def table(
    names: Sequence[str],
    rows: Iterable[Sequence[str]],
    numbers: Iterable[int] = (),
    caption: str = "",
    shown: bool = False,
) -> str:
    """A table of cells that are HTML already.

    Args:
        names: of the columns; none for a table without a header.
        rows: the first cell of each names it.
        numbers: columns that are set flush right.
        caption: what it is, for screen readers.
        shown: show the caption to everybody.
    """
    right = set(numbers)

    def cell(tag: str, at: int, content: str, scope: str = "") -> str:
        kind = ' class="number"' if at in right else ""
        return f"<{tag}{scope}{kind}>{content}</{tag}>"

    def line(row: Sequence[str]) -> str:
        first, *rest = row
        cells = [cell("th", 0, first, ' scope="row"')]
        return "".join([*cells, *(cell("td", at, one) for at, one in enumerate(rest, start=1))])

    head = "".join(cell("th", at, name, ' scope="col"') for at, name in enumerate(names))
    kind = "" if shown else ' class="hidden"'
    return (
        f'<div class="wide"><table><caption{kind}>{caption}</caption>'
        + (f"<thead><tr>{head}</tr></thead>" if head else "")
        + "<tbody>"
        + "".join(f"<tr>{line(row)}</tr>" for row in rows)
        + "</tbody></table></div>"
    )
