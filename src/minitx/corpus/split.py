"""Train part and holdout: what a model learns from, and what it is judged by."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from minitx.config import DataConfig
from minitx.corpus.sources import Corpus, read_corpus
from minitx.errors import BadInputError


@dataclass(frozen=True)
class Split:
    """The two parts of a text; nothing, not even the tokenizer, learns from the holdout."""

    train: str
    holdout: str
    left_out: tuple[str, ...] = ()
    """Files of the corpus that are in the holdout, and so not in the train part."""
    files: tuple[str, ...] = ()
    """Where both parts were read, in full."""

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
    other away.

    Args:
        corpus, data: the text, and how to split it.
        only_files: as in `read_corpus`.
        leave_out: of the train part what is in the holdout file, too.

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
