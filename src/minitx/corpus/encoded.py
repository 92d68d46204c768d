"""Encoded texts: token ids in memory-mapped files, with digests of what they came from.

data/                          beside the texts themselves (splitting.py)
    corpus.json                digests, counts and the ids' type; written last
    train.ids, holdout.ids     token ids, little-endian, 2 or 4 bytes each
    shards/                    while these are made: ids of stretches of the text (shards.py)
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from minitx.corpus.part_text import PARTS, PartText, block_sizes
from minitx.corpus.shards import (
    SHORTEST,
    EncodedShard,
    IdArray,
    encode_shards,
    ids_type,
    made_shard,
    plan_shards,
    shard_key,
)
from minitx.corpus.splitting import SplitCorpus, text_digest
from minitx.errors import DamagedFileError
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
from minitx.tokenizer.base import TOKENIZER_FILE
from minitx.tokenizer.chat_template import SETTINGS_FILE

DESCRIPTION = "corpus.json"
SHARDS = "shards"
_FORMAT = 1
_NAMES = [f"{part}.{kind}" for part in PARTS for kind in ("ids", "txt", "documents")]
_FIX = "Train again, or restore the data directory of the run"
_BLOCK = 1 << 20


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

    digest: str  # `text_digest`
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


def encode_corpus(
    split: SplitCorpus,
    tokenizer: Tokenizer,
    earlier: Iterable[Path] = (),
    n_workers: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
    notes: Mapping[str, Any] | None = None,
) -> EncodedCorpus:
    """Encode both parts where they are, or use what is there if nothing has changed.

    What the vocabulary lacks becomes the unknown token, and is counted. What one of the `earlier`
    directories has of the same text and tokenizer is not encoded again.

    Args:
        n_workers: processes that encode a long text.
        progress: is told how many bytes of text were encoded, of how many, each time some were.
        notes: further keys for `corpus.json`.

    Raises:
        BadInputError: the directory can't be written.
    """
    directory = split.directory
    what = f"the encoded corpus can't be written to {directory}"
    with os_errors_as_bad_input(what, "Free some space, or choose another directory"):
        wanted = Description(split.digest, tokenizer.digest)
        candidates = (directory, *earlier)
        for candidate in candidates:
            # Another process may remove its run while we look.
            with contextlib.suppress(DamagedFileError, FileNotFoundError):
                if read_description(candidate) == wanted:
                    corpus = load_encoded(candidate)
                    return corpus if candidate == directory else _linked(candidate, directory)
        (directory / DESCRIPTION).unlink(missing_ok=True)
        parts = {part.name: part for part in (split.train, split.holdout)}
        has_ends = split.has_several
        tokenizer.save(directory)
        description: dict[str, Any] = {
            **(notes or {}),
            "format": _FORMAT,
            "digest": wanted.digest,
            "tokenizer_digest": wanted.tokenizer_digest,
            "dtype": ids_type(tokenizer.vocab_size).str,
            "documents": {name: len(part.table()) for name, part in parts.items()},
            "split": split.method,
            **{key: getattr(split, key) for key in ("files", "left_out", "skipped", "formats")},
            "shards": {},
        }
        made = directory / SHARDS
        done, total = 0, sum(part.n_bytes for part in parts.values())

        def count(n_bytes: int) -> None:
            nonlocal done
            done += n_bytes
            progress(done, total)

        for name, part in parts.items():
            planned = plan_shards(part, tokenizer, has_ends)
            known: dict[str, _KnownShard] = {}
            keys = [""] * len(planned)
            if part.n_bytes >= SHORTEST:  # Sooner encoded than looked for.
                keys = [shard_key(part, shard, tokenizer) for shard in planned]
                for candidate in candidates:
                    known |= _known_shards(candidate, tokenizer, set(keys))
            shards = [(shard, known.get(key)) for shard, key in zip(planned, keys, strict=True)]
            lacking = [shard for shard, there in shards if there is None]
            encoded = iter(encode_shards(lacking, directory, tokenizer, made, n_workers, count))
            in_order = [there or _made(made, next(encoded)) for _, there in shards]
            with replacing(directory / f"{name}.ids") as path, path.open("wb") as file:
                for shard in in_order:
                    shard.copy_to(file, ids_type(tokenizer.vocab_size).itemsize)
            description[name] = _counts([shard.encoded for shard in in_order])
            description["shards"][name] = [asdict(shard.encoded) for shard in in_order]
        description["ids_digest"] = _ids_digest(directory)
        description["changed"] = _changed(directory)
        write_atomically(directory / DESCRIPTION, json_bytes(description))
        shutil.rmtree(made, ignore_errors=True)
    return load_encoded(directory)


@dataclass(frozen=True)
class _KnownShard:
    """A shard that was encoded: ids of a file, from number `first` on."""

    encoded: EncodedShard
    path: Path
    first: int = 0

    def copy_to(self, file: IO[bytes], size: int) -> None:
        with self.path.open("rb") as source:
            source.seek(self.first * size)
            for part in block_sizes(self.encoded.tokens * size):
                file.write(source.read(part))


def _made(directory: Path, encoded: EncodedShard) -> _KnownShard:
    return _KnownShard(encoded, directory / f"{encoded.key}.ids")


def _known_shards(
    directory: Path, tokenizer: Tokenizer, wanted: set[str]
) -> dict[str, _KnownShard]:
    """Of the wanted shards, those of an earlier run, or of an encoding that was killed."""
    known: dict[str, _KnownShard] = {}
    with contextlib.suppress(DamagedFileError, OSError, ValueError, TypeError):
        for key in wanted:
            if (shard := made_shard(directory / SHARDS, key, tokenizer)) is not None:
                known[key] = _made(directory / SHARDS, shard)
        if read_description(directory).tokenizer_digest == tokenizer.digest:
            noted = read_json(directory / DESCRIPTION).get("shards", {})
            reused: dict[str, _KnownShard] = {}
            for name in noted:
                first = 0
                for shard in (EncodedShard(**values) for values in noted[name]):
                    if shard.key in wanted:
                        reused[shard.key] = _KnownShard(shard, directory / f"{name}.ids", first)
                    first += shard.tokens
            if reused:
                load_encoded(directory)  # Raises if it is damaged.
            known |= reused
    return known


def _counts(shards: Sequence[EncodedShard]) -> dict[str, int]:
    keys = ("tokens", "bytes", "characters", "unknown")
    return {key: sum(getattr(shard, key) for shard in shards) for key in keys}


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


def kept_split(source: Path, digest: str, directory: Path) -> SplitCorpus | None:
    """The text in one directory, put into another, if it is the one of that digest; None if not."""
    try:
        if text_digest(source) != digest:
            return None
    except (OSError, ValueError):
        return None
    directory.mkdir(exist_ok=True)
    link_texts(source, directory)
    return SplitCorpus(directory, "")


def describe_change(old: SplitCorpus, new: SplitCorpus) -> str:
    """Say in a few words where a text first differs from the one that was kept."""
    for part in PARTS:
        before, after = (PartText(split.directory, part).path for split in (old, new))
        name = "train part" if part == "train" else "holdout"
        if not before.exists() or (start := _first_difference(before, after)) is None:
            continue
        sizes = after.stat().st_size, before.stat().st_size
        size = "" if sizes[0] == sizes[1] else f"{sizes[0]:,} bytes instead of {sizes[1]:,}, "
        with before.open("rb") as file:
            line = 1 + sum(file.read(n).count(b"\n") for n in block_sizes(start))
        return f"its {name} has {size}other text from line {line:,} on (byte {start:,})"
    return "its documents end elsewhere"


def _first_difference(before: Path, after: Path) -> int | None:
    start = 0
    with before.open("rb") as first, after.open("rb") as second:
        while True:
            left, right = first.read(_BLOCK), second.read(_BLOCK)
            if left != right:
                n = min(len(left), len(right))
                differs = np.frombuffer(left, np.uint8, n) != np.frombuffer(right, np.uint8, n)
                return start + (int(differs.argmax()) if differs.any() else n)
            if not left:
                return None
            start += len(left)


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
        for part in PARTS:
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
        if not is_unchanged(directory, description):
            if text_digest(directory) != description["digest"]:
                raise ValueError("the .txt files are not what they were")
            if _ids_digest(directory) != description["ids_digest"]:
                raise ValueError("the .ids files are not what they were")
        digests = str(description["digest"]), str(description["tokenizer_digest"])
        (train_ids, train), (holdout_ids, holdout) = parts
        return EncodedCorpus(*digests, directory, train_ids, holdout_ids, train, holdout)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedFileError(f"{path} can't be used: {describe_damage(error)}", _FIX) from None


ALWAYS_READ = 64 << 20
"""Bytes of a corpus up to which its digests are taken each time: this is quick."""


def is_unchanged(directory: Path, description: Mapping[str, Any]) -> bool:
    """Whether the files of a large corpus have the sizes and times of change that were noted."""
    changed: dict[str, list[int]] = description.get("changed", {})
    sizes = [size for size, _ in changed.values()]
    with contextlib.suppress(OSError):
        return sum(sizes) > ALWAYS_READ and changed == _changed(directory)
    return False


def _changed(directory: Path) -> dict[str, list[int]]:
    """Size and time of change (ns) of the files of a corpus."""
    stats = {name: (directory / name).stat() for name in _NAMES if (directory / name).exists()}
    return {name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()}


def link_texts(source: Path, directory: Path, more: Iterable[str] = ()) -> None:
    """Put the texts of one directory, and more of its files, into another."""
    _link(source, directory, [*(name for name in _NAMES if ".ids" not in name), *more])


def _ids_digest(directory: Path) -> str:
    digests = "".join(file_digest(directory / f"{part}.ids") for part in PARTS)
    return hashlib.sha256(bytes.fromhex(digests)).hexdigest()


def _linked(source: Path, directory: Path) -> EncodedCorpus:
    _link(source, directory, [*_NAMES, TOKENIZER_FILE, SETTINGS_FILE, DESCRIPTION])
    return load_encoded(directory)


def _link(source: Path, directory: Path, names: Iterable[str]) -> None:
    for name in names:
        if not (source / name).exists():  # Earlier versions noted no documents.
            continue
        with replacing(directory / name) as target:
            try:
                os.link(source / name, target)
            except OSError:
                # Another file system, or one without links.
                shutil.copyfile(source / name, target)
