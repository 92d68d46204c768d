"""The blocks of a documentation page, how they are run, and what they must print.

A page is read from top to bottom, in one Python namespace and one working directory. ```python
blocks are executed; each line of a ```sh block is a command: `minitx ...`, or `python examples/...`
for a lesson's script, or `curl ...` to the server that an earlier `minitx serve` has started, and
that runs until the end of the page.

A ```text block that follows one of these is what it prints:

    ```text title="Output"                    to the letter; a line of "..." stands for any lines
    ```text title="Output, numbers vary"      to the word: numbers, plots, and lines that begin
                                              with ">" (what a model wrote) depend on the machine;
                                              a line of "..." stands for any lines here, too

Any other ```text block, such as a picture, says nothing about a command and follows none.

    python tests/documented.py PAGE...        runs pages in full and rewrites what they show
"""

from __future__ import annotations

import contextlib
import difflib
import io
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

EXACT, VARIES = "Output", "Output, numbers vary"

_FENCE = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_TITLE = re.compile(r'title="([^"]*)"')


@dataclass(frozen=True)
class Block:
    """One block of code.

    Attributes:
        kind: `python` or `sh`.
        body: its lines.
        line: where it stands in the page, from 1.
        shown: what the page says that it prints; None if the page does not say.
        title: `EXACT` or `VARIES`, of what is shown.
        span: where what is shown stands in the page's text.
    """

    kind: str
    body: str
    line: int
    shown: str | None = None
    title: str = EXACT
    span: tuple[int, int] = (0, 0)


def blocks(text: str) -> list[Block]:
    """The executed blocks of a page, each with what it shows.

    Raises:
        ValueError: a block is of a kind that nothing runs, or an output has no title.
    """
    found: list[Block] = []
    end = 0
    for fence in _FENCE.finditer(text):
        kind, options, body = fence.groups()
        line = text.count("\n", 0, fence.start()) + 1
        if kind in ("python", "sh"):
            found.append(Block(kind, body, line))
            end = fence.end()
        elif kind == "text":
            title = _TITLE.search(options)
            follows = bool(found) and not text[end : fence.start()].strip()
            if follows and not title:
                raise ValueError(f'line {line}: what a block prints needs title="Output"')
            if title and title[1].startswith(EXACT):
                if not follows or title[1] not in (EXACT, VARIES):
                    raise ValueError(f"line {line}: {title[1]!r} follows no block, or is no title")
                last = found.pop()
                span = (fence.start(3), fence.end(3))
                found.append(Block(last.kind, last.body, last.line, body, title[1], span))
        else:
            raise ValueError(f"line {line}: a block of unknown kind {kind!r}")
    return found


def difference(block: Block, printed: str) -> str:
    """What is wrong with what a block shows; empty if it is what was printed."""
    shown = block.shown or ""
    if block.title == VARIES:
        parts = re.split(r"^\.\.\.$", shown, flags=re.MULTILINE)
        pattern = "(?: .*)?".join(
            " " + " ".join(_words(part)) if _words(part) else "" for part in parts
        )
        words = " " + " ".join(_words(printed))
        return "" if re.fullmatch(pattern, words) else _diff(_words(shown), _words(printed))
    shown_lines, printed_lines = _lines(shown), _lines(printed)
    pattern = "\n".join("@@any@@" if line == "..." else re.escape(line) for line in shown_lines)
    pattern = pattern.replace("@@any@@", r"(?:.*)")
    if re.fullmatch(pattern, "\n".join(printed_lines), re.DOTALL):
        return ""
    return _diff(shown_lines, printed_lines)


def run_python(body: str, namespace: dict[str, Any], where: str) -> None:
    """Execute one block."""
    exec(compile(body, where, "exec"), namespace)


def _lines(text: str) -> list[str]:
    return "\n".join(line.rstrip() for line in text.splitlines()).strip("\n").splitlines()


def _words(text: str) -> list[str]:
    kept = [line for line in text.splitlines() if not line.startswith(">")]
    return re.findall(r"[A-Za-z]+", "\n".join(kept))


def _diff(shown: list[str], printed: list[str]) -> str:
    return "\n".join(difflib.unified_diff(shown, printed, "shown", "printed", lineterm=""))


def rewrite(page: Path, run_line: Callable[[list[str]], str]) -> None:
    """Run a page in full and write what its blocks printed into it, where it shows something."""
    text = page.read_text(encoding="utf-8")
    namespace: dict[str, Any] = {}
    replaced: list[tuple[tuple[int, int], str]] = []
    for block in blocks(text):
        if block.kind == "python":
            with contextlib.redirect_stdout(io.StringIO()) as out:
                run_python(block.body, namespace, f"{page.name}:{block.line}")
            printed = out.getvalue()
        else:
            printed = "".join(run_line(shlex.split(line)) for line in block.body.splitlines())
        if block.shown is not None and "..." not in _lines(block.shown):
            replaced.append((block.span, "\n".join(_lines(printed)) + "\n"))
    for (start, end), printed in reversed(replaced):
        text = text[:start] + printed + text[end:]
    page.write_text(text, encoding="utf-8")


def _run_in(directory: Path) -> Callable[[list[str]], str]:
    def run_line(words: list[str]) -> str:
        program, *arguments = words
        if program == "curl" or arguments[:1] in (["serve"], ["explore"]):
            # Pages show nothing of what these print.
            return ""
        command = [sys.executable, *(["-m", "minitx"] if program == "minitx" else []), *arguments]
        command = [str(ROOT / w) if w.startswith("examples/") else w for w in command]
        print("$", *words, file=sys.stderr)
        done = subprocess.run(
            command, cwd=directory, stdout=subprocess.PIPE, text=True, check=True, encoding="utf-8"
        )
        return done.stdout

    return run_line


if __name__ == "__main__":
    for page in [Path(name).resolve() for name in sys.argv[1:]]:
        with tempfile.TemporaryDirectory() as place:
            os.chdir(place)
            rewrite(page, _run_in(Path(place)))
            os.chdir(ROOT)
