"""Encoded texts: token ids in memory-mapped files, with digests of what they came from.

data/
    corpus.json                digests, counts and the ids' type; written last
    train.ids, holdout.ids     token ids, little-endian, 2 or 4 bytes each
    train.txt, holdout.txt     the text itself
"""

from __future__ import annotations

import contextlib
import mmap
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from minitx.corpus.sources import Split, digest_of_parts, texts_of
from minitx.errors import BadInputError, DamagedFileError
from minitx.files import (
    describe_damage,
    file_digest,
    json_bytes,
    os_errors_as_bad_input,
    read_json,
    replacing,
    write_atomically,
)
from minitx.tokenizer import Tokenizer

IdArray = npt.NDArray[np.integer[Any]]

DESCRIPTION = "corpus.json"
_FORMAT = 1
_PARTS = ("train", "holdout")
_FIX = "Train again, or restore the data directory of the run"


@dataclass(frozen=True)
class PartCounts:
    """Size of one part; `unknown` ids stand for what the vocabulary lacks."""

    tokens: int
    bytes: int
    characters: int
    unknown: int


@dataclass(frozen=True)
class Description:
    """What an encoded corpus came from."""

    digest: str  # `Split.digest`
    tokenizer_digest: str


@dataclass(frozen=True, eq=False)
class EncodedCorpus(Description):
    """Both parts of a corpus as ids, `(tokens,)` and memory-mapped; the holdout may be empty."""

    directory: Path
    train_ids: IdArray
    holdout_ids: IdArray
    train: PartCounts
    holdout: PartCounts

    def holdout_beginning(self, characters: int) -> str:
        """The first so many characters of the holdout; the rest is not read."""
        with (self.directory / "holdout.txt").open(encoding="utf-8", newline="") as file:
            return file.read(characters)


Progress = Callable[[int, int], None]
"""Called with how many characters are encoded, and of how many."""


def encode_corpus(
    split: Split,
    tokenizer: Tokenizer,
    directory: Path,
    earlier: Iterable[Path] = (),
    progress: Progress = lambda done, total: None,
) -> EncodedCorpus:
    """Encode both parts into a directory, or use what is there if nothing has changed.

    What the vocabulary lacks becomes the unknown token, and is counted. Of the `earlier`
    directories, one with the same text and tokenizer is linked from instead of encoding again.

    Raises:
        BadInputError: the directory can't be written.
    """
    what = f"the encoded corpus can't be written to {directory}"
    with os_errors_as_bad_input(what, "Free some space, or choose another directory"):
        wanted = Description(split.digest, tokenizer.digest)
        for candidate in (directory, *earlier):
            # Another process may remove its run while we look.
            with contextlib.suppress(DamagedFileError, FileNotFoundError):
                if read_description(candidate) == wanted:
                    corpus = load_encoded(candidate)
                    return corpus if candidate == directory else _linked(candidate, directory)
        directory.mkdir(parents=True, exist_ok=True)
        (directory / DESCRIPTION).unlink(missing_ok=True)
        counts = {}
        for part in _PARTS:
            with (
                replacing(directory / f"{part}.txt") as text_path,
                replacing(directory / f"{part}.ids") as ids_path,
                text_path.open("wb") as text_file,
                ids_path.open("wb") as ids_file,
            ):
                parts = _told_parts(split, part, progress)
                counts[part] = asdict(write_encoded(parts, tokenizer, text_file, ids_file))
        description = {
            "format": _FORMAT,
            "digest": split.digest,
            "tokenizer_digest": tokenizer.digest,
            "dtype": ids_type(tokenizer.vocab_size).str,
            **counts,
            "ids_digest": _digest_of(directory, "ids"),
        }
        write_atomically(directory / DESCRIPTION, json_bytes(description))
    return load_encoded(directory)


def _told_parts(split: Split, part: str, progress: Progress) -> Iterator[str]:
    text, total = getattr(split, part), len(split.train) + len(split.holdout)
    before = 0 if part == _PARTS[0] else len(split.train)
    for start in range(0, len(text), _BLOCK):
        progress(before + start, total)
        yield text[start : start + _BLOCK]


def ids_type(vocab_size: int) -> np.dtype[Any]:
    """What an id is kept as: 2 bytes where they suffice, else 4."""
    return np.dtype("<u2" if vocab_size <= 2**16 else "<u4")


def read_description(directory: Path) -> Description:
    """Read the digests in a directory's `corpus.json`, without looking at the corpus.

    Raises:
        DamagedFileError: it can't be used.
    """
    path = directory / DESCRIPTION
    try:
        content = read_json(path)
        return Description(str(content["digest"]), str(content["tokenizer_digest"]))
    except (OSError, ValueError, KeyError) as error:
        raise DamagedFileError(f"{path} can't be used: {describe_damage(error)}", _FIX) from None


def kept_split(directory: Path, digest: str) -> Split | None:
    """The text in a directory, if it is the one of that digest; None if not."""
    try:
        train, holdout = (
            (directory / f"{part}.txt").read_bytes().decode("utf-8") for part in _PARTS
        )
    except (OSError, UnicodeDecodeError):
        return None
    split = Split(train, holdout)
    return split if split.digest == digest else None


def describe_change(directory: Path, split: Split) -> str:
    """Say in a few words where a text first differs from the one kept in a directory."""
    for part in _PARTS:
        name = "train part" if part == "train" else "holdout"
        new = str(getattr(split, part)).encode()
        try:
            old = (directory / f"{part}.txt").read_bytes()
        except OSError:
            continue
        if old != new:
            n = min(len(old), len(new))
            differs = np.frombuffer(old, np.uint8, n) != np.frombuffer(new, np.uint8, n)
            start = int(differs.argmax()) if differs.any() else n
            size = "" if len(old) == len(new) else f"{len(new):,} bytes instead of {len(old):,}, "
            line = old.count(b"\n", 0, start) + 1
            return f"its {name} has {size}other text from line {line:,} on (byte {start:,})"
    return "its text is another"


def load_encoded(directory: Path) -> EncodedCorpus:
    """Open an encoded corpus, after its files were compared with their digests.

    Raises:
        DamagedFileError: a file is missing, or does not fit the others.
    """
    path = directory / DESCRIPTION
    try:
        description = read_json(path)
        if description["format"] != _FORMAT or description["dtype"] not in ("<u2", "<u4"):
            raise ValueError("its format is unknown")
        dtype = np.dtype(description["dtype"])
        no_ids: IdArray = np.empty(0, dtype)
        parts: list[tuple[IdArray, PartCounts]] = []
        for part in _PARTS:
            counts = PartCounts(**description[part])
            if not all(type(n) is int and n >= 0 for n in asdict(counts).values()):
                raise ValueError(f"the counts of {part} are not whole numbers")
            sizes = {"txt": counts.bytes, "ids": counts.tokens * dtype.itemsize}
            for kind, size in sizes.items():
                if (actual := (directory / f"{part}.{kind}").stat().st_size) != size:
                    raise ValueError(f"{part}.{kind} has {actual:,} bytes instead of {size:,}")
            # An empty file can't be mapped.
            ids = np.memmap(directory / f"{part}.ids", dtype, "r") if counts.tokens else no_ids
            parts.append((ids, counts))
        for kind, noted in (("txt", "digest"), ("ids", "ids_digest")):
            if _digest_of(directory, kind) != description[noted]:
                raise ValueError(f"the .{kind} files are not what they were")
        digests = str(description["digest"]), str(description["tokenizer_digest"])
        (train_ids, train), (holdout_ids, holdout) = parts
        return EncodedCorpus(*digests, directory, train_ids, holdout_ids, train, holdout)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedFileError(f"{path} can't be used: {describe_damage(error)}", _FIX) from None


def _digest_of(directory: Path, kind: str) -> str:
    """Digest of both files of a kind, as `Split.digest` is one of both texts."""
    return digest_of_parts(file_digest(directory / f"{part}.{kind}") for part in _PARTS)


def write_encoded(
    texts: Iterable[str], tokenizer: Tokenizer, text_file: IO[bytes], ids_file: IO[bytes]
) -> PartCounts:
    """Write a text that comes in parts, in UTF-8, and its ids, unknown ones included."""
    n_tokens = n_bytes = n_characters = n_unknown = 0

    def kept() -> Iterator[str]:
        nonlocal n_bytes, n_characters
        for text in texts:
            n_characters += len(text)
            n_bytes += text_file.write(text.encode("utf-8"))
            yield text

    dtype = ids_type(tokenizer.vocab_size)
    for ids in tokenizer.encode_parts(kept(), "replace"):
        n_tokens += len(ids)
        if tokenizer.unknown_id is not None:
            n_unknown += int(np.count_nonzero(ids == tokenizer.unknown_id))
        ids_file.write(ids.astype(dtype).tobytes())
    return PartCounts(n_tokens, n_bytes, n_characters, n_unknown)


def _linked(source: Path, directory: Path) -> EncodedCorpus:
    directory.mkdir(parents=True, exist_ok=True)
    names = [f"{part}.{kind}" for part in _PARTS for kind in ("ids", "txt")]
    for name in (*names, DESCRIPTION):
        target = directory / name
        target.unlink(missing_ok=True)
        try:
            os.link(source / name, target)
        except OSError:
            # Another file system, or one without links.
            write_atomically(target, (source / name).read_bytes())
    return load_encoded(directory)


ByteArray = npt.NDArray[np.uint8]

_BLOCK = 1 << 20


@dataclass(frozen=True, eq=False)
class EncodedFile:
    """A text in UTF-8, `(bytes,)`, and its ids, `(tokens,)`, both mapped."""

    ids: IdArray
    content: ByteArray
    counts: PartCounts


def encode_file(path: Path, tokenizer: Tokenizer) -> EncodedFile:
    """Encode a text file of any size; what the vocabulary lacks becomes the unknown token.

    It is read block by block. Its text and ids go to temporary files without a name, which are
    gone when nobody maps them any more.

    Raises:
        BadInputError: it can't be read, has no text, is not UTF-8, or there is no room for it.
    """
    has_text = False

    def noted() -> Iterator[str]:
        nonlocal has_text
        for text in texts_of(path):
            has_text = has_text or bool(text.strip())
            yield text

    what = f"what {path} holds can't be kept in {tempfile.gettempdir()}"
    fix = "Free some space there, or let TMPDIR name another directory"
    with (
        os_errors_as_bad_input(what, fix),
        tempfile.TemporaryFile() as text_file,
        tempfile.TemporaryFile() as ids_file,
    ):
        counts = write_encoded(noted(), tokenizer, text_file, ids_file)
        if not has_text:
            raise BadInputError(f"{path} has no text in it", "Give a file with some text")
        text_file.flush()
        ids_file.flush()
        ids = np.memmap(ids_file, ids_type(tokenizer.vocab_size), "r")
        return EncodedFile(ids, np.memmap(text_file, np.uint8, "r"), counts)


def blocks_of(content: ByteArray) -> Iterator[bytes]:
    """A mapped text, block by block."""
    for start in range(0, len(content), _BLOCK):
        yield content[start : start + _BLOCK].tobytes()
        release(content)


def release(mapped: npt.NDArray[np.generic]) -> None:
    """Let go of what was read of a mapped array; it is read anew when needed.

    Without this, a file that streams by stays in this process's memory until others need it.
    """
    base = mapped
    while isinstance(base, np.ndarray):
        base = base.base  # type: ignore[assignment]
    if isinstance(base, mmap.mmap) and hasattr(base, "madvise"):
        base.madvise(mmap.MADV_DONTNEED)
