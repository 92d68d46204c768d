"""The two parts of a corpus on disk: what a model learns from, and what it is judged by.

data/
    train.txt, holdout.txt                 the documents of each part, one after the other
    train.documents, holdout.documents     where each ends, and what is known of it (`DOCUMENT`)

Nothing, not even the tokenizer, learns from the holdout. Documents go to it whole, by a hash of
their content: equal texts land on one side, and one more document moves no other. Of few documents
the holdout is the tail, which is harder than random lines, and more honest: neighbouring lines give
each other away.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from minitx.config import DataConfig
from minitx.corpus.documents import Document
from minitx.corpus.part_text import DOCUMENT, PARTS, PartText, block_sizes
from minitx.corpus.sources import Corpus, read_corpus
from minitx.errors import BadInputError
from minitx.files import file_digest, os_errors_as_bad_input

BoolArray = npt.NDArray[np.bool_]

FEWEST_FOR_HASH = 20
"""Documents from which on a hash gives a holdout of about the size that was asked for."""

_BLOCK = 1 << 20
_ROWS = 4096


@dataclass(frozen=True)
class SplitCorpus:
    """Both parts of a corpus, in a directory of their own.

    Attributes:
        method: how it was split: tail, hash, or the file that is held out.
        files: that the documents are from, as `DOCUMENT` counts them.
        left_out: documents that are not in the train part, by reason.
        skipped: records that could not be used, by file.
        formats: how many files were read as each format.
        known_digest: if it was read from a run that noted it.
    """

    directory: Path
    method: str
    files: tuple[str, ...] = ()
    left_out: tuple[tuple[str, int], ...] = ()
    skipped: tuple[tuple[str, int], ...] = ()
    formats: tuple[tuple[str, int], ...] = ()
    known_digest: str | None = None

    @property
    def train(self) -> PartText:
        """What is learned from."""
        return PartText(self.directory, "train")

    @property
    def holdout(self) -> PartText:
        """What is never learned from."""
        return PartText(self.directory, "holdout")

    def name_of(self, part: PartText, position: int) -> str:
        """What the document at a byte of a part is called: its file, and where in there it is."""
        table = part.table()
        row = table[int(np.searchsorted(table["end"], position, side="right"))]
        name = self.files[row["file"]] if row["file"] < len(self.files) else ""
        return f"{name}:{row['number']}" if row["number"] else name

    @property
    def has_several(self) -> bool:
        """Whether it has several documents, each of which has an end."""
        return any(len(part.table()) > 1 for part in (self.train, self.holdout))

    @property
    def digest(self) -> str:
        """`text_digest` of its directory."""
        return self.known_digest or text_digest(self.directory)


def text_digest(directory: Path) -> str:
    """SHA-256 over both parts, in hexadecimal; moves when a text or the end of a document does."""
    digest = hashlib.sha256()
    tables = [PartText(directory, name).table() for name in PARTS]
    for name in PARTS:
        digest.update(bytes.fromhex(file_digest(directory / f"{name}.txt")))
    # Of one text in two parts it is what earlier versions noted.
    if any(len(table) > 1 for table in tables):
        for table in tables:
            digest.update(hashlib.sha256(table["end"].tobytes()).digest())
    return digest.hexdigest()


def split_corpus(
    corpus: Corpus,
    data: DataConfig,
    directory: Path,
    leave_out: bool = True,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> SplitCorpus:
    """Read a corpus into a directory, and hold out a part of it.

    Args:
        leave_out: take out of the train part what is in the holdout file, too.
        progress: is told how many bytes of its files were read, of how many, document by document;
            nothing of standard input.

    Raises:
        BadInputError: a file can't be read, or nothing is left to train on.
    """
    what = f"the corpus can't be kept in {directory}"
    with os_errors_as_bad_input(what, "Free some space, or choose another directory"):
        directory.mkdir(parents=True, exist_ok=True)
        return _Split(corpus, data, directory, leave_out, progress).done()


class _Split:
    def __init__(
        self,
        corpus: Corpus,
        data: DataConfig,
        directory: Path,
        leave_out: bool,
        progress: Callable[[int, int], None],
    ) -> None:
        self._corpus, self._data, self._leave_out = corpus, data, leave_out
        self._progress = progress
        self._train, self._holdout = (PartText(directory, name) for name in PARTS)
        self._files: dict[str, int] = {}
        self._left_out: dict[str, int] = {}

    def done(self) -> SplitCorpus:
        data, method = self._data, self._data.split
        held_file = data.held_file
        documents = self._told(self._corpus.documents())
        if method == "characters":
            documents = iter([Document(_joined(documents), self._corpus.named)])
        write_documents(documents, self._train, self._files)
        _require_text(self._train, self._corpus.named)
        if data.dedup:
            hashes = self._train.table()["hash"]
            repeated = np.ones(len(hashes), bool)
            repeated[np.unique(hashes, return_index=True)[1]] = False
            self._drop("duplicates", repeated)
        if held_file is not None:
            method = held_file
            self._hold_out_file(held_file)
        else:
            write_documents((), self._holdout, self._files)
            if method is None:
                chosen = self._chosen()
                is_divided = chosen.any() and not chosen.all()  # Equal texts never are.
                method = "hash" if len(chosen) >= FEWEST_FOR_HASH and is_divided else "tail"
            if method == "hash":
                self._hold_out_by_hash()
            elif data.holdout_fraction:
                self._hold_out_tail(exactly=method == "characters")
        reading = self._corpus.reading
        return SplitCorpus(
            self._train.directory, method, tuple(self._files), tuple(self._left_out.items()),
            tuple(reading.skipped.items()), tuple(reading.formats.items()),
        )  # fmt: skip

    def _told(self, documents: Iterable[Document]) -> Iterator[Document]:
        """The same, while the progress is told; also within a document, of which one may be all."""
        reading = self._corpus.reading
        total = 0
        with contextlib.suppress(OSError):  # Of one that has gone, reading it tells.
            total = sum(Path(file).stat().st_size for file in self._corpus.files)

        def told(parts: Iterable[str]) -> Iterator[str]:
            for part in parts:
                if total:
                    self._progress(min(total, reading.n_read + reading.position()), total)
                yield part

        return (replace(document, parts=told(document.parts)) for document in documents)

    def _drop(self, reason: str, dropped: BoolArray) -> None:
        if dropped.any():
            self._left_out[reason] = int(dropped.sum())
            _keep(self._train, ~dropped)

    def _hold_out_file(self, name: str) -> None:
        corpus = self._corpus
        held = read_corpus(
            [name], None, self._data.working_directory, corpus.only_files, corpus.reading
        )
        write_documents(held.documents(), self._holdout, self._files)
        _require_text(self._holdout, name)
        if not self._leave_out:
            return
        table, identities = self._train.table(), {_identity(file) for file in held.files}
        same_file = [i for file, i in self._files.items() if _identity(file) in identities]
        in_both = np.isin(table["hash"], self._holdout.table()["hash"])
        self._drop("also in the holdout", in_both | np.isin(table["file"], same_file))
        if not self._train.n_bytes:
            raise BadInputError(
                f"nothing is left to train on without the holdout {name}",
                "Name more text, or leave it out to hold out a part of the corpus",
            )

    def _chosen(self) -> BoolArray:
        """Which documents a hash holds out."""
        numbers = _uniform(self._train.table()["hash"], self._data.split_seed)
        chosen: BoolArray = numbers < self._data.holdout_fraction
        return chosen

    def _hold_out_by_hash(self) -> None:
        held = self._chosen()
        if self._data.holdout_fraction and held.all() == held.any():
            raise BadInputError(
                f"a corpus of {len(held):,} documents is too short to split by hash",
                "Give more documents, or --split tail",
            )
        if held.any():
            _keep(self._train, held, self._holdout)
            _keep(self._train, ~held)

    def _hold_out_tail(self, exactly: bool) -> None:
        table, size = self._train.table(), self._train.n_bytes
        fraction = 1.0 - self._data.holdout_fraction
        if exactly:
            text = self._train.text()
            cut = len(text[: int(len(text) * fraction)].encode("utf-8"))
        else:
            cut = _line_near(self._train.path, int(size * fraction))
        if not 0 < cut < size:
            raise BadInputError(
                f"a corpus of {size:,} bytes is too short to split",
                "Give a longer text, or --holdout-fraction 0",
            )
        first = int(np.searchsorted(table["end"], cut, side="right"))
        tail, head = table[first:].copy(), table[: first + 1].copy()
        tail["end"] -= cut
        head["end"] = np.minimum(head["end"], cut)
        if first and head["end"][-1] == head["end"][-2]:
            head = head[:-1]  # The cut is between two documents.
        else:
            tail["hash"][0] = ~tail["hash"][0]  # Its two pieces are not the same.
        del table
        with self._train.path.open("rb+") as file, self._holdout.path.open("wb") as held:
            file.seek(cut)
            shutil.copyfileobj(file, held, _BLOCK)
            file.truncate(cut)
        self._train.table_path.write_bytes(head.tobytes())
        self._holdout.table_path.write_bytes(tail.tobytes())


def write_documents(documents: Iterable[Document], part: PartText, files: dict[str, int]) -> None:
    """Write documents as a part; `files` gets a number for each file that they are from."""
    for path in (part.path, part.table_path):
        path.unlink(missing_ok=True)  # It may be a link to a file of another run.
    rows = np.empty(_ROWS, DOCUMENT)
    n_rows = start = end = 0
    with part.path.open("wb") as text_file, part.table_path.open("wb") as table_file:
        for document in documents:
            digest = hashlib.sha256()
            for text in document.parts:
                content = text.encode("utf-8")
                digest.update(content)
                end += text_file.write(content)
            if end == start:
                continue
            start = end
            number = files.setdefault(document.file, len(files))
            start_of_hash = int.from_bytes(digest.digest()[:8], "little")
            rows[n_rows] = (end, start_of_hash, document.number, number)
            n_rows += 1
            if n_rows == _ROWS:
                table_file.write(rows.tobytes())
                n_rows = 0
        table_file.write(rows[:n_rows].tobytes())


def _require_text(part: PartText, name: str) -> None:
    with part.path.open("rb") as file:
        if all(not block.strip() for block in iter(lambda: file.read(_BLOCK), b"")):
            raise BadInputError(f"{name} has no text in it", "Give a file with some text")


def _joined(documents: Iterable[Document]) -> Iterator[str]:
    """One text, in which each begins on a line of its own: how earlier versions read several."""
    last = "\n"
    for document in documents:
        if not last.endswith("\n"):
            yield "\n"
        last = "\n"
        for part in filter(None, document.parts):
            last = part
            yield part


def _identity(file: str) -> object:
    """The same for all names of a file."""
    try:
        status = os.stat(file)  # noqa: PTH116
    except OSError:
        return file
    return status.st_dev, status.st_ino


def _uniform(hashes: npt.NDArray[np.uint64], seed: int) -> npt.NDArray[np.float64]:
    """A number from 0 to 1 for each, by the last step of SplitMix64 (Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        mixed = hashes + np.uint64(seed % 2**64) * np.uint64(0x9E3779B97F4A7C15)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
            mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    result: npt.NDArray[np.float64] = (mixed >> np.uint64(11)) * 2.0**-53
    return result


def _line_near(path: Path, position: int) -> int:
    """The start of the first line from a byte on; of the last before it, or the nearest character,
    where there is none soon."""
    position = max(1, position)
    with path.open("rb") as file:
        file.seek(position - 1)
        after = file.read(_BLOCK).find(b"\n")
        if 0 <= after < path.stat().st_size - position:
            return position + after
        file.seek(max(0, position - _BLOCK))
        around = file.read(position - file.tell() + 1)
    if (line := around.rfind(b"\n", 0, -1)) >= 0:
        return position - len(around) + line + 2
    # Bytes after the first of a character begin with 10.
    while position and around and around[-1] & 0xC0 == 0x80:
        around, position = around[:-1], position - 1
    return position


def _keep(part: PartText, kept: BoolArray, into: PartText | None = None) -> None:
    """Leave these documents of a part, or write them to another one; in the same order."""
    table, target = part.table(), into or part
    bounds = np.concatenate(([0], table["end"]))
    rows = table[kept].copy()
    rows["end"] = np.cumsum(np.diff(bounds)[kept])
    del table
    # Those that follow each other are copied at once.
    edges = np.flatnonzero(np.diff(kept, prepend=False, append=False))
    # In place, nothing is written over before it was read: documents only move to the front.
    with part.path.open("rb") as source, target.path.open("wb" if into else "rb+") as file:
        for start, end in bounds[edges].reshape(-1, 2):
            source.seek(start)
            for size in block_sizes(end - start):
                file.write(source.read(size))
        file.truncate()
    target.table_path.write_bytes(rows.tobytes())
