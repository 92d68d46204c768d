"""Where the documents of a corpus come from: files, directories, globs, standard input, or Python
itself.
"""

from __future__ import annotations

import contextlib
import functools
import glob
import io
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, TextIO, cast

from minitx.corpus.documents import Document, Reading, UnknownStructureError
from minitx.corpus.readers import BEGINNING, READERS, format_of, known_suffixes
from minitx.corpus.readers.plain_text import PlainText
from minitx.corpus.unpacking import is_packed_text, unpacked, unpacking_errors_as_bad_input
from minitx.errors import BadInputError
from minitx.files import open_plain_file, os_errors_as_bad_input

DEFAULT_NAME = "python-reference"
"""Name of the embedded default corpus: the language reference that comes with Python."""

STANDARD_INPUT = "standard input"

_SHOWN = 60


@dataclass(frozen=True)
class Corpus:
    """Files that were found to exist, in order.

    Attributes:
        named: how a person named it, for messages.
        name: a short name, fit for a directory.
        paths: of the files; None for standard input.
        only_files: refuse pipes and devices, whose text may never come.
    """

    named: str
    name: str
    paths: tuple[Path | None, ...]
    reading: Reading = field(default_factory=Reading)
    stdin: BinaryIO | None = None
    only_files: bool = False

    @property
    def files(self) -> tuple[str, ...]:
        """Where its files are, in full."""
        return tuple(str(path.absolute()) for path in self.paths if path is not None)

    def documents(self) -> Iterator[Document]:
        """All documents, file after file; standard input gives them once.

        Raises:
            BadInputError: a file is unreadable, or is not what its format allows.
        """
        if self.name == DEFAULT_NAME and not self.paths:
            yield Document([default_text()], DEFAULT_NAME)
        self.reading.n_files = len(self.paths)
        for path in self.paths:
            if path is None:
                yield from _piped_documents(self.stdin, self.reading)
            else:
                yield from documents_of(path, self.reading, self.only_files)
        self.reading.require_fields(self.named)


def read_corpus(
    sources: Sequence[str],
    stdin: BinaryIO | None = None,
    directory: str | None = None,
    only_files: bool = False,
    reading: Reading | None = None,
) -> Corpus:
    """Find the files of a corpus; its characters are kept as they are, line ends included.

    Args:
        sources: files, directories (searched for files of known formats, in order of their paths),
            globs, or ``-`` for `stdin`; none for the embedded default. A file is read once, however
            often it is named.
        directory: that relative names start from; None for the current one.
        only_files: as in `Corpus`.
        reading: how files are read.

    Raises:
        BadInputError: a source is missing.
    """
    reading = reading or Reading()
    if not sources:
        return Corpus(DEFAULT_NAME, DEFAULT_NAME, (), reading)
    # A text that is named twice, by its directory for example, would land on both sides of a split.
    paths: dict[Path | None, Path | None] = {}
    for source in sources:
        for path in [None] if source == "-" else _files(source, Path(directory or "")):
            paths.setdefault(path and Path(os.path.realpath(path)), path)
    named = ", ".join(STANDARD_INPUT if source == "-" else source for source in sources)
    return Corpus(named, _name(sources[0]), tuple(paths.values()), reading, stdin, only_files)


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


def _files(source: str, directory: Path) -> list[Path]:
    path = directory / source
    if not source:
        raise BadInputError("a corpus is named by an empty text", "Name a text file, or . for here")
    if "\0" in source:
        raise BadInputError(f"corpus {source!r} is no path", "Name a text file")
    # A name too long to be one is perhaps the text itself, given as an argument.
    shown = source if len(source) <= _SHOWN else f"{source[:_SHOWN]}..."
    with os_errors_as_bad_input(f"corpus {shown!r} can't be read", "Name a text file"):
        is_directory, exists = path.is_dir(), path.exists()
    if is_directory:
        files = _no_results(
            file
            for file in path.rglob("*")
            if _is_wanted(str(file.relative_to(path))) and file.is_file()
        )
        if not files:
            raise BadInputError(
                f"directory {source} has no text files (such as .txt, .md, .py)",
                "Name the files themselves",
            )
        return _without_notes(files)
    if exists:
        return [path]
    if not glob.has_magic(source):
        raise BadInputError(f"corpus {source} does not exist", "Name a text file")
    files = _no_results(path for path in _matching(directory, source) if path.is_file())
    if not files:
        raise BadInputError(f"no file matches {source}", "Check the pattern, or name a file")
    return _without_notes(files)


def _matching(directory: Path, pattern: str) -> Iterator[Path]:
    """What matches a pattern and is not hidden; unlike that of `glob`, a ** follows no links, which
    may lead back to where they are."""
    wanted = Path(pattern)
    start = Path(wanted.anchor) if wanted.anchor else directory
    inner = wanted.relative_to(wanted.anchor)
    inner = inner / "*" if inner.name == "**" else inner
    for path in start.glob(str(inner)):
        if _has_hidden(inner) or not _has_hidden(path.relative_to(start)):
            yield path


def _has_hidden(path: Path) -> bool:
    return any(part.startswith(".") and part != ".." for part in path.parts)


def _no_results(files: Iterable[Path]) -> list[Path]:
    """Those of files, sorted, that are no part of a run or a model, whose own name alone asks for.

    A run beside the texts that it learns from would change them, and hold its holdout.

    Raises:
        BadInputError: all are.
    """
    is_run, is_model = functools.cache(_is_run), functools.cache(_is_model)
    candidates = sorted(files)
    kept = [
        file
        for file in candidates
        # As deep as a checkpoint lies in its run.
        if not (is_model(file.parent) or any(map(is_run, list(file.absolute().parents)[:3])))
    ]
    if candidates and not kept:
        raise BadInputError(
            f"{candidates[0].parent} holds a run or a model, not texts",
            "Name the texts; minitx resume goes on with a run",
        )
    return kept


def _is_run(directory: Path) -> bool:
    return (directory / "run.toml").exists() and (directory / "checkpoints").is_dir()


def _is_model(directory: Path) -> bool:
    return (directory / "model.safetensors").exists() and (directory / "config.json").exists()


def piped_text(stdin: TextIO | None, missing: str, fix: str) -> str:
    """The text that is piped in.

    Raises:
        BadInputError: nothing is, told as `missing` and `fix`, or it is not UTF-8 text.
    """
    if stdin is None or stdin.isatty():
        raise BadInputError(missing, fix)
    with os_errors_as_bad_input(f"{STANDARD_INPUT} can't be read", "Name a file"):
        return "".join(PlainText.text(stdin.buffer, STANDARD_INPUT))


def _piped_documents(stdin: BinaryIO | None, reading: Reading) -> Iterator[Document]:
    if stdin is None:
        raise BadInputError("there is no standard input to read", "Name a file")
    with os_errors_as_bad_input(f"{STANDARD_INPUT} can't be read", "Name a file"):
        file: Any = stdin if hasattr(stdin, "peek") else io.BufferedReader(cast(Any, stdin))
        yield from _documents_in(file, STANDARD_INPUT, reading)


def documents_of(
    path: Path, reading: Reading, only_files: bool = False, what: str = "corpus"
) -> Iterator[Document]:
    """The documents of a file.

    Pipes are read, too, unless `only_files` are. `what` is for errors.

    Raises:
        BadInputError: it is missing, a device, can't be read, or is not what its format allows.
    """
    with _opened(path, only_files, what) as file:
        if file.seekable():
            reading.position = file.tell
        yield from _documents_in(file, str(path), reading)
        reading.n_read, reading.position = reading.n_read + reading.position(), lambda: 0


def _documents_in(file: io.BufferedReader, name: str, reading: Reading) -> Iterator[Document]:
    with unpacking_errors_as_bad_input(name):
        for inner, content in unpacked(file, name, _is_wanted):
            beginning, has_field = content.peek(BEGINNING), reading.text_field is not None
            kind = format_of(inner, beginning, reading.file_format, has_field)
            reading.formats[kind] = reading.formats.get(kind, 0) + 1
            try:
                for document in READERS.get(kind)().documents(content, inner, reading):
                    if isinstance(document.parts, list):
                        yield document
                    else:
                        yield replace(document, parts=_with_errors_told(document.parts, name))
            except UnknownStructureError as error:
                if not reading.skip_bad:
                    is_only = reading.n_files == 1 and inner == name
                    raise (error.of_only_file() if is_only else error) from None
                reading.skipped[inner] = reading.skipped.get(inner, 0) + 1


def _with_errors_told(parts: Iterable[str], name: str) -> Iterator[str]:
    """The same parts, which are read where their document is used, and not where it is given."""
    fix = "Name a text file you may read"
    with os_errors_as_bad_input(f"{name} can't be read", fix), unpacking_errors_as_bad_input(name):
        yield from parts


def plain_text_of(path: Path, what: str) -> Iterator[str]:
    """The text of a plain text file or a pipe, in parts, cut anywhere; errors as above."""
    with _opened(path, False, what) as file:
        yield from PlainText.text(file, str(path))


@contextlib.contextmanager
def _opened(path: Path, only_files: bool, what: str) -> Iterator[io.BufferedReader]:
    fix = "Name a text file you may read"
    with os_errors_as_bad_input(f"{what} {path} can't be read", fix):
        if path.is_char_device() or path.is_block_device():
            raise BadInputError(f"{what} {path} is a device", "Name a text file")
        if only_files and not path.is_file():
            raise BadInputError(f"{what} {path} is not a plain file", fix)
        with open_plain_file(path) if only_files else path.open("rb") as file:
            before = os.fstat(file.fileno())
            yield file
            after = os.fstat(file.fileno())
        changed = (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns)
        if changed and path.is_file():
            raise BadInputError(
                f"{what} {path} changed while it was read", "Give it when nobody writes to it"
            )


def _is_wanted(name: str) -> bool:
    """Whether a file of a directory or an archive is read: of a known format, and not hidden."""
    if _has_hidden(Path(name)):
        return False
    suffixes = known_suffixes()
    return Path(name).suffix.lower() in suffixes or is_packed_text(
        name, lambda inner: Path(inner).suffix.lower() in suffixes
    )


_NOTES = ("dataset_info.json", "state.json")


def _without_notes(files: list[Path]) -> list[Path]:
    """Without what `datasets.save_to_disk` notes beside its texts.

    Raises:
        BadInputError: it wrote several splits, of which some are for training.
    """
    for file in files:
        if file.name == "dataset_dict.json":
            splits = sorted(path.name for path in file.parent.iterdir() if path.is_dir())
            raise BadInputError(
                f"{file.parent} has the splits {', '.join(splits)} of a data set",
                f"Name one, for example {file.parent / splits[0] if splits else file.parent}, and "
                "hold out another with --split",
            )
    tables = {file.parent for file in files if file.suffix == ".arrow"}
    return [file for file in files if file.name not in _NOTES or file.parent not in tables]
