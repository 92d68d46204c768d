"""Encoding in shards: stretches of a text that are encoded by themselves, by several processes.

Where a shard ends follows from the text alone, so that the ids are the same for any number of
processes, and a text to which documents were added has most of its shards in common with the one
before. A shard is known by a digest of what decides its ids. Those that are there, from an encoding
that was killed or from another run, are not made again.

A process that encodes is `shard_worker.py`.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from minitx.corpus.part_text import PartText, block_sizes
from minitx.errors import BadInputError
from minitx.files import json_bytes, read_json, replacing
from minitx.tokenizer import Tokenizer

IdArray = npt.NDArray[np.integer[Any]]

SHORTEST, LONGEST = 4 << 20, 32 << 20
"""Bytes of text in a shard; between them, it ends after a document with a certain hash."""

WORTH_A_PROCESS = 2 * LONGEST
"""Bytes of text from which on other processes are worth their start."""

_WORKER = "minitx.corpus.shard_worker"
_ENDS_ONE_IN = 64  # documents, by their hash
_SEARCHED_FOR_CUT = 1 << 16


@dataclass(frozen=True)
class Shard:
    """Bytes `start` to `end` of a part, in which its documents `first` to `last` end.

    A token stands at the end of each of these if it `has_ends`.
    """

    part: str
    start: int
    end: int
    first: int
    last: int
    has_ends: bool

    @property
    def n_bytes(self) -> int:
        """Of its text."""
        return self.end - self.start


@dataclass(frozen=True)
class EncodedShard:
    """What a shard became: `unknown` of its tokens stand for what the vocabulary lacks."""

    key: str
    tokens: int
    bytes: int
    characters: int
    unknown: int


def ids_type(vocab_size: int) -> np.dtype[Any]:
    """What an id is kept as: 2 bytes where they suffice, else 4."""
    return np.dtype("<u2" if vocab_size <= 2**16 else "<u4")


def plan_shards(part: PartText, tokenizer: Tokenizer, has_ends: bool) -> list[Shard]:
    """Where the shards of a part begin and end."""
    table = part.table()
    ends = table["end"]
    may_end = np.flatnonzero(table["hash"] % np.uint64(_ENDS_ONE_IN) == 0)
    shards: list[Shard] = []
    start = first = 0
    while first < len(ends):
        # Up to the first document after `SHORTEST` whose hash says so, or that makes it long.
        long_enough = int(np.searchsorted(ends, start + LONGEST))
        candidate = int(np.searchsorted(may_end, np.searchsorted(ends, start + SHORTEST)))
        by_hash = int(may_end[candidate]) if candidate < len(may_end) else len(ends)
        last = min(long_enough, by_hash, len(ends) - 1) + 1
        for cut in (*_cuts(part, start, int(ends[last - 1]), tokenizer), int(ends[last - 1])):
            ended = int(np.searchsorted(ends[first:last], cut, side="right")) + first
            shards.append(Shard(part.name, start, cut, first, ended, has_ends))
            start, first = cut, ended
    return shards


def _cuts(part: PartText, start: int, end: int, tokenizer: Tokenizer) -> Iterator[int]:
    """Where a long document may be cut without changing its ids, about every `LONGEST` bytes."""
    with part.path.open("rb") as file:
        for position in range(start + LONGEST, end - LONGEST, LONGEST):
            file.seek(position)
            raw = file.read(_SEARCHED_FOR_CUT)
            skipped = next(i for i in range(4) if raw[i] & 0xC0 != 0x80)
            text = raw[skipped:].decode("utf-8", "ignore")
            if (cut := tokenizer.safe_cut(text)) is not None:
                yield position + skipped + len(text[:cut].encode("utf-8"))


def write_ids(
    file: IO[bytes], tokenizer: Tokenizer, documents: Iterator[Iterator[str]], n_ends: int
) -> tuple[int, int]:
    """Encode documents as `Tokenizer.encode_documents` does; how many tokens, and of them unknown.

    What the vocabulary lacks becomes the unknown token. Ids are written as `ids_type` says.
    """
    dtype = ids_type(tokenizer.vocab_size)
    n_tokens = n_unknown = 0
    for ids in tokenizer.encode_documents(documents, n_ends, "replace"):
        n_tokens += len(ids)
        if tokenizer.unknown_id is not None:
            n_unknown += int(np.count_nonzero(ids == tokenizer.unknown_id))
        file.write(ids.astype(dtype).tobytes())
    return n_tokens, n_unknown


def shard_key(part: PartText, shard: Shard, tokenizer: Tokenizer) -> str:
    """A digest of all that decides the ids of a shard."""
    ends = part.table()["end"][shard.first : shard.last] - shard.start
    digest = hashlib.sha256(f"{tokenizer.digest} {shard.has_ends} {len(ends)}".encode())
    digest.update(ends.tobytes())
    with part.path.open("rb") as file:
        file.seek(shard.start)
        for size in block_sizes(shard.n_bytes):
            digest.update(file.read(size))
    return digest.hexdigest()[:32]


def made_shard(directory: Path, key: str, tokenizer: Tokenizer) -> EncodedShard | None:
    """The shard with this key, if it was made in a directory, and is whole there."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        shard = EncodedShard(**read_json(directory / f"{key}.json"))
        size = shard.tokens * ids_type(tokenizer.vocab_size).itemsize
        if (directory / f"{key}.ids").stat().st_size == size:
            return shard
    return None


def encode_shard(
    part: PartText, shard: Shard, tokenizer: Tokenizer, directory: Path, parent: int | None = None
) -> EncodedShard:
    """Encode a shard into a file of `directory`, named by its key, unless it is there.

    Raises:
        OSError: there is no room; or the process that this was done for, `parent`, is gone, and
            another may be writing the text anew.
    """
    key = shard_key(part, shard, tokenizer)
    if (made := made_shard(directory, key, tokenizer)) is not None:
        return made
    n_characters = 0

    def noted(parts: Iterator[str]) -> Iterator[str]:
        nonlocal n_characters
        for text in parts:
            n_characters += len(text)
            yield text

    pieces = map(noted, part.pieces(shard.start, shard.end, shard.first, shard.last))
    n_ends = shard.last - shard.first if shard.has_ends else 0
    # A process that goes on where another was killed may meet a worker that the other has left.
    own = directory / f"{os.getpid()}.ids"
    with replacing(own) as path, path.open("wb") as file:
        n_tokens, n_unknown = write_ids(file, tokenizer, pieces, n_ends)
    if parent not in (None, os.getppid()):
        own.unlink()
        raise OSError(errno.ESRCH, os.strerror(errno.ESRCH))
    own.replace(directory / f"{key}.ids")
    encoded = EncodedShard(key, n_tokens, shard.n_bytes, n_characters, n_unknown)
    with replacing(directory / f"{key}.json") as path:
        path.write_bytes(json_bytes(asdict(encoded)))
    return encoded


def encode_shards(
    shards: Sequence[Shard],
    texts: Path,
    tokenizer: Tokenizer,
    directory: Path,
    n_workers: int,
    progress: Callable[[int], None],
) -> list[EncodedShard]:
    """Encode shards of the parts in `texts` into files of `directory`, in any order.

    Args:
        n_workers: processes that do it; 1 for this one.
        progress: is told how many bytes were encoded, each time some were.

    Raises:
        BadInputError: one of these processes was ended by somebody else.
        OSError: there is no room.
    """
    directory.mkdir(exist_ok=True)
    if n_workers <= 1 or sum(shard.n_bytes for shard in shards) < WORTH_A_PROCESS:
        encoded = []
        for shard in shards:
            encoded.append(encode_shard(PartText(texts, shard.part), shard, tokenizer, directory))
            progress(shard.n_bytes)
        return encoded
    tokenizer.save(directory)
    results: dict[int, EncodedShard] = {}
    waiting = iter(range(len(shards)))
    command = [sys.executable, "-m", _WORKER, str(texts), str(directory), str(os.getpid())]
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false"}

    processes: list[subprocess.Popen[str]] = []

    def work() -> None:
        # Ctrl-C in a terminal is for this process alone, which ends the others without a word.
        with (
            contextlib.suppress(BrokenPipeError),
            subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                env=environment, start_new_session=True,
            ) as process,
        ):  # fmt: skip
            processes.append(process)
            assert process.stdin is not None
            assert process.stdout is not None
            # A process ends with its input, also where this one is killed.
            for i in waiting:
                print(json.dumps(asdict(shards[i])), file=process.stdin, flush=True)
                if not (line := process.stdout.readline()):
                    break
                answer = json.loads(line)
                if "what" in answer:
                    raise BadInputError(**answer)
                if "key" not in answer:
                    raise OSError(answer["errno"], os.strerror(answer["errno"]))
                results[i] = EncodedShard(**answer)
                progress(shards[i].n_bytes)
            else:
                return
        raise BadInputError(
            "a process that encodes the corpus was ended, perhaps for want of memory",
            "Do it again with --workers 1",
        )

    with ThreadPoolExecutor(n_workers) as threads:
        try:
            for worker in [threads.submit(work) for _ in range(min(n_workers, len(shards)))]:
                worker.result()
        except BaseException:
            for _ in waiting:  # Nobody shall begin another.
                pass
            for process in processes:
                process.kill()
            raise
    return [results[i] for i in range(len(shards))]
