"""Pages from the templates in this folder: whatever is filled in is escaped."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from minitx.files import writing_where_asked
from minitx.report.terminal.printable import run_path, text_label, token_label, visible
from minitx.report.terminal.units import count, fixed


def render(template: str, **values: Any) -> str:
    """A template, filled in.

    Every string among the values stands as text, with control characters made visible; scripts and
    styles come from `asset`, data for scripts through the filter `tojson`. Numbers, names and
    tokens are written by the same functions as in a terminal.
    """
    return _environment().get_template(template).render(values)


def asset(name: str) -> Markup:
    """A style sheet or script of this folder, as it is."""
    return Markup((files(__package__) / name).read_text(encoding="utf-8"))


def write_page(page: str, path: Path) -> None:
    """Write a page as UTF-8.

    Raises:
        BadInputError: when it can't be written.
    """
    with writing_where_asked(path) as file:
        # A lone surrogate has no UTF-8 form; a page shows such text with a question mark.
        file.write_text(page, encoding="utf-8", errors="replace")


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("minitx.report", "pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_text,
    )
    functions = (asset, count, fixed, run_path, text_label, token_label)
    environment.globals.update({function.__name__: function for function in functions})
    environment.policies["json.dumps_kwargs"] = {
        "ensure_ascii": False,
        "separators": (",", ":"),
        "allow_nan": False,
    }
    return environment


def _text(value: Any) -> Any:
    if isinstance(value, str) and not isinstance(value, Markup):
        return visible(value.replace("\r\n", "\n"))
    return value
