"""What an evaluation starts from: a model with the run it belongs to, and a text to score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from minitx.checkpoint.rundir import RunDirectory, find_run
from minitx.compute import Compute, choose_compute
from minitx.config import EvaluationSettings
from minitx.corpus import EncodedCorpus, encode_file, load_encoded
from minitx.corpus.audit import audit, read_audit
from minitx.corpus.documents import Reading
from minitx.corpus.earlier import noted_split
from minitx.corpus.encoded import PartCounts
from minitx.corpus.encoded_file import blocks_of
from minitx.corpus.readers.plain_text import decoded
from minitx.errors import BadInputError, DamagedFileError
from minitx.evaluation.arrays import ByteArray, IdArray
from minitx.evaluation.by_document import Documents
from minitx.evaluation.holdout_figures import ModelFigures, TextFigures
from minitx.evaluation.text_score import ScoredText
from minitx.files import file_digest
from minitx.training.logging.metrics_file import read_metrics
from minitx.workflows.load import LoadedModel


@dataclass(frozen=True, eq=False)
class Subject:
    """A model to measure, and what is known of its training.

    Attributes:
        compute: device, and format of the matrix products.
        quantize: format that the weights were rounded to; None if they are as in the checkpoint.
        run, corpus: that the model belongs to; None if there is none.
    """

    loaded: LoadedModel
    compute: Compute
    quantize: str | None
    run: RunDirectory | None
    corpus: EncodedCorpus | None

    def figures(self) -> ModelFigures:
        """Which model it is, and how it is measured."""
        config, tokenizer = self.loaded.model.config, self.loaded.tokenizer
        rounded = f" ({self.quantize} weights)" if self.quantize else ""
        return ModelFigures(
            checkpoint=f"{self.loaded.directory}{rounded}",
            architecture=config.family,
            n_parameters=config.n_parameters,
            tokenizer=tokenizer.kind,
            vocab_size=tokenizer.vocab_size,
            context_length=config.context_length,
            device=self.compute.description,
            dtype=self.compute.dtype_name,
            tokenizer_digest=tokenizer.digest,
        )

    def holdout_losses(self) -> list[tuple[int, float]]:
        """Step and holdout loss of each evaluation during training."""
        if self.run is None:
            return []
        return [
            (int(line["step"]), float(line["holdout_loss"]))
            for line in read_metrics(self.run.metrics_file)
            if line["kind"] == "evaluation" and isinstance(line.get("holdout_loss"), (int, float))
        ]

    @property
    def train_ids(self) -> IdArray:
        """Ids of the train part, mapped, `(tokens,)`; empty without one."""
        return np.empty(0, np.int64) if self.corpus is None else self.corpus.train_ids

    def train_content(self) -> ByteArray:
        """UTF-8 of the train part, mapped, `(bytes,)`; empty without one."""
        if self.corpus is None or not self.corpus.train.bytes:
            return np.empty(0, np.uint8)
        return np.memmap(self.corpus.directory / "train.txt", np.uint8, "r")


def find_subject(loaded: LoadedModel, settings: EvaluationSettings, with_holdout: bool) -> Subject:
    """Find the corpus of a model.

    Raises:
        BadInputError: the model has no holdout where one is needed, or the device lacks the format.
        DamagedFileError: the run's data was encoded with another tokenizer.
    """
    run = find_run(loaded.directory)
    corpus: EncodedCorpus | None = None
    if with_holdout:
        run, corpus = _holdout_of(loaded.directory)
    elif run is not None and run.data.is_dir():
        corpus = load_encoded(run.data)
    if corpus is not None and not loaded.tokenizer.has_digest(corpus.tokenizer_digest):
        what = f"was encoded with another tokenizer than that of {loaded.directory}"
        raise DamagedFileError(
            f"{corpus.directory} {what}", "Restore the data directory of the run"
        )
    device = next(loaded.model.parameters()).device
    compute = choose_compute(device.type, "float32" if settings.dtype == "auto" else settings.dtype)
    return Subject(loaded, compute, settings.quantize, run, corpus)


def _holdout_of(checkpoint: Path) -> tuple[RunDirectory, EncodedCorpus]:
    run = find_run(checkpoint)
    if run is None:
        raise BadInputError(
            f"{checkpoint} is in no run, so it has no holdout", "Name a text file to score instead"
        )
    corpus = load_encoded(run.data)
    if len(corpus.holdout_ids) < 2:
        raise BadInputError(
            f"run {run.path} has no holdout to score",
            "Name a text file to score, or train with a --holdout-fraction above 0",
        )
    return run, corpus


def require_same_holdout(checkpoints: Sequence[Path]) -> None:
    """Refuse to compare models on holdouts that differ.

    Raises:
        BadInputError: they do, or a model has none.
    """
    runs: dict[str, Path] = {}
    for checkpoint in checkpoints:
        run, _ = _holdout_of(checkpoint)
        runs.setdefault(file_digest(run.data / "holdout.txt"), run.path)
    if len(runs) > 1:
        first, other, *_ = runs.values()
        raise BadInputError(
            f"runs {first} and {other} have different holdouts, so their losses don't compare",
            "Name a text file that neither was trained on",
        )


def holdout_text(subject: Subject, with_documents: bool = True) -> ScoredText:
    """The holdout of a subject that was found with one, and what its documents are.

    What the tokenizer does not know was replaced when the run began, and is counted.
    """
    corpus = subject.corpus
    assert corpus is not None
    figures = _figures("holdout", corpus.holdout)
    content = np.memmap(corpus.directory / "holdout.txt", np.uint8, "r")
    documents = _holdout_documents(corpus.directory) if with_documents else None
    return ScoredText(figures, corpus.holdout_ids, content, True, documents)


def _holdout_documents(directory: Path) -> Documents:
    split = noted_split(directory)
    # Runs of earlier versions did not compare the parts.
    found = read_audit(directory) or audit(split)
    leaked, compared = (
        np.array(spans, np.int64).reshape(-1, 2)
        for spans in ((found.leaked, found.compared) if found else ((), ()))
    )
    name = partial(split.name_of, split.holdout)
    return Documents(split.holdout.table()["end"], name, leaked, compared)


def _figures(name: str, counts: PartCounts) -> TextFigures:
    return TextFigures(name, counts.tokens, counts.bytes, counts.characters, counts.unknown)


def file_text(subject: Subject, source: str, settings: EvaluationSettings) -> ScoredText:
    """A file of any size, or a pipe, read as its run reads and encoded with its tokenizer.

    Raises:
        BadInputError: it can't be read, is too short, or has characters that the tokenizer does
            not know.
    """
    tokenizer = subject.loaded.tokenizer
    reading = Reading() if subject.run is None else Reading.of(subject.run.read_config().data)
    # Another file may be of another format.
    text_field = settings.text_field or reading.text_field
    reading = replace(reading, file_format=None, text_field=text_field)
    # A model that never saw the end of a document is not judged by it.
    end_id = subject.loaded.model.config.end_id
    has_ends = end_id is not None and end_id == tokenizer.end_id
    encoded = encode_file(Path(source), tokenizer, reading, has_ends)
    if settings.text_field is not None:
        reading.require_fields(source)
    counts = encoded.counts
    if counts.unknown == counts.tokens:
        raise BadInputError(
            f"{source} has nothing that the {tokenizer.kind} tokenizer of this model knows",
            "Score a text like the one it was trained on, or train with --kind bpe",
        )
    if counts.tokens < 2:
        raise BadInputError(
            f"{source} is 1 token long, which can't be scored: nothing comes before it",
            "Give a text of at least 2 tokens",
        )
    # A vocabulary of words is never complete; one of characters is expected to be.
    if counts.unknown and settings.unknown == "error" and tokenizer.kind == "char":
        parts = decoded(blocks_of(encoded.content), source)
        first = next(
            characters[0] for part in parts if (characters := tokenizer.unknown_characters(part))
        )
        raise BadInputError(
            f"{source} has {counts.unknown:,} character{'s' if counts.unknown > 1 else ''} that "
            f"the char tokenizer does not know, the first {first!r} (U+{ord(first):04X})",
            "Give --unknown replace to score them as <unk>, or train with --kind bpe",
        )
    figures = _figures(Path(source).name, counts)
    documents = Documents(encoded.ends, lambda start: encoded.name_of(Path(source).name, start))
    return ScoredText(figures, encoded.ids, encoded.content, False, documents)
