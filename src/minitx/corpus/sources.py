"""A text, and its split in what a model learns from and what it is judged by.

It comes from wherever it is kept: files, directories, globs, standard input, or Python itself.
"""

from __future__ import annotations

import contextlib
import functools
import glob
import hashlib
import io
import json
import logging
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, TextIO

from minitx.config import DataConfig
from minitx.corpus.readers import BEGINNING, CorpusReader, choose_reader, known_suffixes
from minitx.errors import BadInputError
from minitx.files import open_plain_file, os_errors_as_bad_input, read_json

DEFAULT_NAME = "python-reference"
"""Name of the embedded default corpus: the language reference that comes with Python."""

_log = logging.getLogger("minitx")

_SHOWN = 60
_WITH_MARKUP = {".jsonl", ".ndjson", ".json", ".csv", ".tsv"}
"""Suffixes of formats whose keys and separators are read as part of the text."""


@dataclass(frozen=True)
class SourceText:
    """The text of one file; `path` is None where it was none."""

    text: str
    path: Path | None = None

    @cached_property
    def marks(self) -> set[object]:
        """What it shares with the same file under another name, and with a copy."""
        marks: set[object] = {self.text}
        with contextlib.suppress(OSError):
            if self.path is not None:
                status = self.path.stat()
                marks.add((status.st_dev, status.st_ino))
        return marks


@dataclass(frozen=True)
class Corpus:
    """A text, in which files follow each other on lines of their own, and a short name for it."""

    parts: tuple[SourceText, ...]
    name: str

    @cached_property
    def text(self) -> str:
        """All of it."""
        texts = [part.text for part in self.parts]
        ended = (text if not text or text.endswith("\n") else f"{text}\n" for text in texts[:-1])
        return "".join([*ended, *texts[-1:]])

    @property
    def files(self) -> tuple[str, ...]:
        """Where its files are, in full."""
        return tuple(str(part.path.absolute()) for part in self.parts if part.path is not None)

    def without(self, other: Corpus) -> tuple[Corpus, list[SourceText]]:
        """What is in none of another's files, by whatever name or as a copy; and what is."""
        marks = set[object]().union(*(part.marks for part in other.parts))
        shared = [part for part in self.parts if part.marks & marks]
        kept = tuple(part for part in self.parts if not part.marks & marks)
        return Corpus(kept, self.name), shared

    def warn_of_markup(self) -> None:
        """Warn of files in formats that hold texts among other things, all of which is read."""
        marked = [
            "standard input" if part.path is None else part.path.name
            for part in self.parts
            if (part.path is not None and part.path.suffix.lower() in _WITH_MARKUP)
            or _has_json_lines(part.text)
        ]
        if marked:
            more = f" and {len(marked) - 1:,} more" if len(marked) > 1 else ""
            _log.warning(
                f"warning: {marked[0]}{more}: read as plain text, keys, quotes and separators "
                "included; to train on the texts alone, write them to a .txt file"
            )


def _has_json_lines(text: str) -> bool:
    """Whether the first line is a JSON object, whatever the file is called."""
    line = text[: 1 << 20].lstrip().partition("\n")[0]
    with contextlib.suppress(ValueError, RecursionError):
        return line.startswith("{") and isinstance(json.loads(line), dict)
    return False


def read_corpus(
    sources: Sequence[str],
    stdin: BinaryIO | None = None,
    directory: str | None = None,
    only_files: bool = False,
) -> Corpus:
    """Read a corpus; its characters are kept as they are, line ends included.

    Args:
        sources: files, directories (searched for text files, in order of their paths), globs, or
            ``-`` for `stdin`; none for the embedded default. A file is read once, however often
            it is named.
        directory: that relative names start from; None for the current one.
        only_files: refuse pipes and devices, whose text may never come.

    Raises:
        BadInputError: a source is missing, empty, unreadable, or not UTF-8 text.
    """
    if not sources:
        return Corpus((SourceText(default_text()),), DEFAULT_NAME)
    parts: list[SourceText] = []
    # A text that is named twice, by its directory for example, would land on both sides of a split.
    seen: set[Path | None] = set()
    for source in sources:
        for path in [None] if source == "-" else _files(source, Path(directory or "")):
            where = path and Path(os.path.realpath(path))
            if where not in seen:
                text = _standard_input(stdin) if path is None else texts_of(path, only_files)
                parts.append(SourceText("".join(text), path))
            seen.add(where)
    named = ", ".join("standard input" if source == "-" else source for source in sources)
    if not any(part.text.strip() for part in parts):
        raise BadInputError(f"{named} has no text in it", "Give a file with some text")
    return Corpus(tuple(parts), _name(sources[0]))


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
        suffixes = known_suffixes()
        files = _no_results(
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
    if exists:
        return [path]
    if not glob.has_magic(source):
        raise BadInputError(f"corpus {source} does not exist", "Name a text file")
    matches = glob.glob(source, root_dir=directory, recursive=True)  # noqa: PTH207
    files = _no_results(path for path in map(directory.joinpath, matches) if path.is_file())
    if not files:
        raise BadInputError(f"no file matches {source}", "Check the pattern, or name a file")
    return files


def _no_results(files: Iterable[Path]) -> list[Path]:
    """Those of files, sorted, that are no part of a run or a model, whose own name alone asks for.

    A run beside the texts that it learns from would change them, and hold its holdout.

    Raises:
        BadInputError: all are.
    """
    is_run, is_model = functools.cache(_is_run), functools.cache(_is_model)
    found = sorted(files)
    kept = [
        file
        for file in found
        # As deep as a checkpoint lies in its run.
        if not (is_model(file.parent) or any(map(is_run, list(file.absolute().parents)[:3])))
    ]
    if found and not kept:
        raise BadInputError(
            f"{found[0].parent} holds a run or a model, not texts",
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
    return "".join(_standard_input(stdin.buffer))


def _standard_input(stdin: BinaryIO | None) -> Iterator[str]:
    if stdin is None:
        raise BadInputError("there is no standard input to read", "Name a file")
    name = "standard input"
    with os_errors_as_bad_input(f"{name} can't be read", "Name a file"):
        content = stdin.read()
    yield from choose_reader(name, content).texts(io.BytesIO(content), name)


def texts_of(
    path: Path,
    only_files: bool = False,
    what: str = "corpus",
    reader: CorpusReader | None = None,
) -> Iterator[str]:
    """The text of a file in parts, cut anywhere.

    Pipes are read, too, unless `only_files` are. `what` is for errors; `reader` None chooses.

    Raises:
        BadInputError: it is missing, a device, can't be read, or is no text.
    """
    _refuse_dataset(path)
    fix = "Name a text file you may read"
    with os_errors_as_bad_input(f"{what} {path} can't be read", fix):
        if path.is_char_device() or path.is_block_device():
            raise BadInputError(f"{what} {path} is a device", "Name a text file")
        if only_files and not path.is_file():
            raise BadInputError(f"{what} {path} is not a plain file", fix)
        with open_plain_file(path) if only_files else path.open("rb") as file:
            chosen = reader or choose_reader(str(path), file.peek(BEGINNING))
            yield from chosen.texts(file, str(path))


def _refuse_dataset(path: Path) -> None:
    """Refuse what `datasets.save_to_disk` notes beside its texts, which are in other files."""
    key = {"dataset_dict.json": "splits", "dataset_info.json": "features",
           "state.json": "_data_files"}.get(path.name)  # fmt: skip
    if key is None:
        return
    noted: dict[str, object] = {}
    with contextlib.suppress(OSError, ValueError):
        noted = read_json(path)
    # What is linked elsewhere is not found below.
    if key in noted or any(path.parent.rglob("*.arrow")):
        raise BadInputError(
            f"{path.parent} is from datasets.save_to_disk, which keeps texts in .arrow files",
            "Write its texts to a .txt file, and train on that",
        )


@dataclass(frozen=True)
class Split:
    """The two parts of a text; nothing, not even the tokenizer, learns from the holdout."""

    train: str
    holdout: str
    left_out: tuple[str, ...] = ()  # Files of the corpus that are in the holdout.
    files: tuple[str, ...] = ()  # Where both parts were read, in full.

    @cached_property
    def digest(self) -> str:
        """SHA-256 over both parts, in hexadecimal; moves when either does."""
        parts = (self.train.encode("utf-8"), self.holdout.encode("utf-8"))
        return digest_of_parts(hashlib.sha256(part).hexdigest() for part in parts)


def digest_of_parts(digests: Iterable[str]) -> str:
    """`Split.digest`, from the SHA-256 (in hexadecimal) of train part and holdout."""
    return hashlib.sha256(bytes.fromhex("".join(digests))).hexdigest()


def split_corpus(
    corpus: Corpus, data: DataConfig, only_files: bool = False, leave_out: bool = True
) -> Split:
    """Cut off the tail of a corpus as its holdout, or read the holdout from its own file.

    A contiguous tail is harder than random lines, and more honest: neighbouring lines give each
    other away. `only_files` is as in `read_corpus`. To `leave_out` is to take out of the train part
    what is in the holdout file, too.

    Raises:
        BadInputError: the holdout file can't be read, or nothing is left to train on.
    """
    if data.holdout is not None:
        held = read_corpus([data.holdout], None, data.working_directory, only_files)
        kept, shared = corpus.without(held) if leave_out else (corpus, [])
        if shared and not kept.text.strip():
            raise BadInputError(
                f"nothing is left to train on without the holdout {data.holdout}",
                "Name more text, or leave out --holdout to hold out the end of the text",
            )
        names = tuple(str(part.path or "standard input") for part in shared)
        return Split(kept.text, held.text, names, (*kept.files, *held.files))
    cut = int(len(corpus.text) * (1.0 - data.holdout_fraction))
    if cut == 0:
        raise BadInputError(
            f"a corpus of {len(corpus.text)} characters is too short to split",
            "Give a longer text, or --holdout-fraction 0",
        )
    return Split(corpus.text[:cut], corpus.text[cut:], (), corpus.files)
