"""A text, from wherever it is kept: files, directories, globs, standard input, or Python itself."""

from __future__ import annotations

import glob
import io
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from minitx.corpus.readers import BEGINNING, choose_reader, known_suffixes
from minitx.errors import BadInputError
from minitx.files import os_errors_as_bad_input

DEFAULT_NAME = "python-reference"
"""Name of the embedded default corpus: the language reference that comes with Python."""

_SHOWN = 60


@dataclass(frozen=True)
class Corpus:
    """A text, in which files follow each other on lines of their own, and a short name for it."""

    text: str
    name: str


def read_corpus(sources: Sequence[str], stdin: BinaryIO | None = None) -> Corpus:
    """Read a corpus; its characters are kept as they are, line ends included.

    Args:
        sources: files, directories (searched for text files, in order of their paths), globs, or
            ``-`` for `stdin`; none for the embedded default. A file is read once, however often
            it is named.

    Raises:
        BadInputError: a source is missing, empty, unreadable, or not UTF-8 text.
    """
    if not sources:
        return Corpus(default_text(), DEFAULT_NAME)
    parts: list[str] = []
    # A text that is named twice, by its directory for example, would land on both sides of a split.
    seen: set[Path | None] = set()
    for source in sources:
        for path in [None] if source == "-" else _files(source):
            where = path and Path(os.path.realpath(path))
            if where not in seen:
                parts.append(_read(path, stdin))
            seen.add(where)
    named = ", ".join("standard input" if source == "-" else source for source in sources)
    if not any(part.strip() for part in parts):
        raise BadInputError(f"{named} has no text in it", "Give a file with some text")
    ended = (part if not part or part.endswith("\n") else f"{part}\n" for part in parts[:-1])
    return Corpus("".join([*ended, parts[-1]]), _name(sources[0]))


def default_text() -> str:
    """The embedded default corpus: topics of the Python reference, in order of their names.

    Raises:
        BadInputError: this Python was packaged without them.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise BadInputError(
            "this Python comes without the reference that is the default corpus", "Name a text file"
        ) from None
    return "\n".join(topics[name].strip("\n") + "\n" for name in sorted(topics))


def _name(source: str) -> str:
    """A name for what a source holds, fit for a directory."""
    if source == "-":
        return "stdin"
    path = Path(source)
    # Of a pattern, the part before it says most.
    while glob.has_magic(path.stem) and not path.exists():
        path = path.parent
    path = path.resolve()
    stem = path.name if path.is_dir() else path.stem
    return re.sub(r"[^\w.-]+", "-", stem).strip("-.")[:60] or "corpus"


def _files(source: str) -> list[Path]:
    path = Path(source)
    if not source:
        raise BadInputError("a corpus is named by an empty text", "Name a text file, or . for here")
    if "\0" in source:
        raise BadInputError(f"corpus {source!r} is no path", "Name a text file")
    # A name too long to be one is perhaps the text itself, given as an argument.
    shown = source if len(source) <= _SHOWN else f"{source[:_SHOWN]}..."
    with os_errors_as_bad_input(f"corpus {shown!r} can't be read", "Name a text file"):
        is_directory = path.is_dir()
    if is_directory:
        suffixes = known_suffixes()
        files = sorted(
            file
            for file in path.rglob("*")
            if file.suffix.lower() in suffixes
            and file.is_file()
            and not any(part.startswith(".") for part in file.relative_to(path).parts)
        )
        if not files:
            raise BadInputError(
                f"directory {source} has no text files (such as .txt, .md, .py)",
                "Name the files themselves",
            )
        return files
    if path.exists() or not glob.has_magic(source):
        return [path]
    matches = sorted(Path(match) for match in glob.glob(source, recursive=True))  # noqa: PTH207
    files = [match for match in matches if match.is_file()]
    if not files:
        raise BadInputError(f"no file matches {source}", "Check the pattern, or name a file")
    return files


def _read(path: Path | None, stdin: BinaryIO | None) -> str:
    """Text of a file, or of standard input if there is no path."""
    if path is not None:
        return "".join(texts_of(path))
    if stdin is None:
        raise BadInputError("there is no standard input to read", "Name a file")
    content, name = stdin.read(), "standard input"
    return "".join(choose_reader(name, content).texts(io.BytesIO(content), name))


def texts_of(path: Path) -> Iterator[str]:
    """The text of a file in parts, cut anywhere.

    Raises:
        BadInputError: it is missing, a device, can't be read, or is no text.
    """
    fix = "Name a text file you may read"
    with os_errors_as_bad_input(f"corpus {path} can't be read", fix):
        if path.is_char_device() or path.is_block_device():
            raise BadInputError(f"corpus {path} is a device", "Name a text file")
        if not path.exists():
            raise BadInputError(f"corpus {path} does not exist", "Name a text file")
        with path.open("rb") as file:
            reader = choose_reader(str(path), file.peek(BEGINNING))
            yield from reader.texts(file, str(path))
