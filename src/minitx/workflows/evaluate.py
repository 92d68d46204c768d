"""Measure a model on text it was not trained on: what `minitx eval` does, as library calls.

report = evaluate_holdout(resolve_checkpoint(None), EvaluationSettings())
print(report.perplexity, report.bits_per_byte)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from minitx.checkpoint import LoadedModel, load_model
from minitx.checkpoint.rundir import find_run
from minitx.compute import Compute, choose_device, choose_dtype
from minitx.corpus import EncodedCorpus, load_encoded, read_corpus
from minitx.errors import BadInputError, DamagedFileError
from minitx.evaluation.bits import bits_per, scored_size
from minitx.evaluation.loss import count_targets, score
from minitx.training.perplexity import perplexity

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class EvaluationSettings:
    """How a text is scored.

    Attributes:
        context_length: most tokens that a prediction sees; None for the model's.
        stride: targets scored by each window; None puts windows side by side, less than the
            context makes them overlap, so that contexts are fuller.
        max_tokens: score about as many targets, evenly spaced; 0 for all.
        device: `auto`, `cpu`, `cuda` or `mps`.
        dtype: of the matrix products: `float32`, `bfloat16`, or `auto` for float32, which is exact.
    """

    context_length: int | None = None
    stride: int | None = None
    max_tokens: int = 0
    device: str = "auto"
    dtype: str = "auto"


@dataclass(frozen=True)
class EvaluationReport:
    """A model's loss on a text.

    Attributes:
        checkpoint: the model.
        text: what was scored: `holdout`, or a file's name.
        context_length: most tokens that a prediction saw.
        stride: targets scored by each window; equal to the context length for the plain figure.
        tokens: in the text.
        tokens_scored: of them; the first has nothing before it.
        bytes: of the text that was scored.
        unknown_tokens: tokens that stand for what the vocabulary lacks.
        loss: nats per token.
        perplexity: e to the loss.
        bits_per_byte: the same loss over the bytes of the text.
        bits_per_character: the same over its characters.
        train_loss: nats per token on as many tokens of the train part; None without one.
    """

    checkpoint: str
    text: str
    context_length: int
    stride: int
    tokens: int
    tokens_scored: int
    bytes: int
    unknown_tokens: int
    loss: float
    perplexity: float
    bits_per_byte: float
    bits_per_character: float
    train_loss: float | None

    def to_json(self) -> dict[str, Any]:
        """As a JSON object; a figure that is no number is None."""
        return {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in asdict(self).items()
        }


def evaluate_holdout(
    checkpoint: Path, settings: EvaluationSettings, progress: Progress | None = None
) -> EvaluationReport:
    """Score the holdout of the run that a checkpoint belongs to.

    Args:
        checkpoint: for example from `resolve_checkpoint`.
        settings: how.
        progress: told how many targets of how many are scored.

    Raises:
        BadInputError: the checkpoint is in no run, or the run has no holdout.
        DamagedFileError: the run's data does not belong to the model.
    """
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
    loaded, compute = _load(checkpoint, settings)
    if corpus.tokenizer_digest != loaded.tokenizer.digest:
        raise DamagedFileError(
            f"{run.data} was encoded with another tokenizer than that of {checkpoint}",
            "Restore the data directory of the run",
        )
    return _report(
        loaded,
        compute,
        settings,
        name="holdout",
        ids=corpus.holdout_ids,
        text=corpus.holdout_text(),
        unknown=corpus.holdout.unknown,
        train=corpus,
        progress=progress,
    )


def evaluate_file(
    checkpoint: Path, source: str, settings: EvaluationSettings, progress: Progress | None = None
) -> EvaluationReport:
    """Score a text file; what the vocabulary lacks is counted, not hidden.

    Raises:
        BadInputError: it can't be read, is too short, or has nothing that the model knows.
    """
    text = read_corpus([source]).text
    loaded, compute = _load(checkpoint, settings)
    ids = loaded.tokenizer.encode(text, unknown="replace")
    unknown_id = loaded.tokenizer.unknown_id
    unknown = 0 if unknown_id is None else int(np.count_nonzero(ids == unknown_id))
    if unknown == len(ids):
        raise BadInputError(
            f"{source} has nothing that the {loaded.tokenizer.kind} tokenizer of this model knows",
            "Score a text like the one it was trained on, or train with --kind bpe",
        )
    name = Path(source).name
    return _report(loaded, compute, settings, name, ids, text, unknown, None, progress)


def _load(checkpoint: Path, settings: EvaluationSettings) -> tuple[LoadedModel, Compute]:
    device = choose_device(settings.device)
    dtype = torch.float32 if settings.dtype == "auto" else choose_dtype(settings.dtype, device)
    return load_model(checkpoint, device), Compute(device, dtype)


def _report(
    loaded: LoadedModel,
    compute: Compute,
    settings: EvaluationSettings,
    name: str,
    ids: npt.NDArray[np.integer[Any]],
    text: str,
    unknown: int,
    train: EncodedCorpus | None,
    progress: Progress | None,
) -> EvaluationReport:
    context = settings.context_length or loaded.model.config.context_length
    if settings.context_length == 0 or context > loaded.model.config.context_length:
        raise BadInputError(
            f"context length is {settings.context_length:,}, and this model was trained with "
            f"{loaded.model.config.context_length:,}",
            f"Choose a --context from 1 to {loaded.model.config.context_length}",
        )
    stride = context if settings.stride is None else settings.stride
    total = count_targets(len(ids), context, stride, settings.max_tokens)
    done = 0

    def count(n: int) -> None:
        nonlocal done
        done += n
        if progress is not None:
            progress(done, total)

    dtype = None if compute.dtype == torch.float32 else compute.dtype
    scored = score(
        loaded.model, ids, context, stride, max_tokens=settings.max_tokens, autocast_dtype=dtype,
        progress=count,
    )  # fmt: skip
    train_loss = None
    if train is not None and len(train.train_ids) > 1:
        train_loss = score(
            loaded.model, train.train_ids, context, stride,
            max_tokens=min(scored.n_tokens, len(train.train_ids) - 1), autocast_dtype=dtype,
        ).loss  # fmt: skip
    size = scored_size(text, loaded.tokenizer.token_bytes(int(ids[0])))
    # A part of the text stands for the whole in the same ratio of bytes to tokens.
    part = scored.n_tokens / (len(ids) - 1)
    return EvaluationReport(
        checkpoint=str(loaded.directory),
        text=name,
        context_length=context,
        stride=stride,
        tokens=len(ids),
        tokens_scored=scored.n_tokens,
        bytes=round(size.n_bytes * part),
        unknown_tokens=unknown,
        loss=scored.loss,
        perplexity=perplexity(scored.loss),
        bits_per_byte=bits_per(scored.total_nats / part, size.n_bytes),
        bits_per_character=bits_per(scored.total_nats / part, size.n_characters),
        train_loss=train_loss,
    )
