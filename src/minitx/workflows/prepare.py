"""From a text and what a person fixed to tokens and a plan: what comes before a run, or instead of
one.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from minitx import __version__
from minitx.checkpoint.rundir import RUNS, RunDirectory, find_run, named_run
from minitx.compute import Compute
from minitx.config import DataConfig, RunConfig, TokenizerConfig
from minitx.config.overrides import Overrides
from minitx.corpus import (
    EncodedCorpus,
    SplitCorpus,
    encode_corpus,
    require_one_window,
    split_corpus,
)
from minitx.corpus.earlier import (
    one_with_most_of,
    reused_notes,
    reused_split,
    reused_tokenizer,
    signature,
)
from minitx.corpus.sources import Corpus
from minitx.corpus.training_windows import DATA_ORDER
from minitx.engine import plan_engine
from minitx.errors import BadInputError
from minitx.tokenizer import (
    Tokenizer,
    load_tokenizer,
    with_end_of_text,
    with_roles,
)
from minitx.training.machine_speed import kept_speed, measure_speed
from minitx.training.observer import Observers, Phase, TrainingObserver
from minitx.training.planning import NOMINAL_RATES, TokenFigures, plan_run
from minitx.training.tokenizer_planning import TextSize, plan_capacity, plan_tokenizer
from minitx.workflows.tokenize import has_chats, learned_tokenizer, open_tokenizer

_log = logging.getLogger("minitx")


@dataclass(frozen=True)
class TrainRequest:
    """What a person fixed; the plan fills in the rest.

    Attributes:
        data, tokenizer, model, train: keys of the config of that name.
        tokenizer_directory: use this tokenizer instead of training one.
        out: the run directory to make; None takes the next free one under ``runs``.
        loggers: names of those that note it beside `metrics.jsonl`, for example `tensorboard`.
        measure: measure the machine again, although it was before.
        model_file: a Python file with a model of one's own.
        check: whether that model is refused if it sees what comes later.
    """

    data: Overrides = field(default_factory=dict)
    tokenizer: Overrides = field(default_factory=dict)
    model: Overrides = field(default_factory=dict)
    train: Overrides = field(default_factory=dict)
    tokenizer_directory: Path | None = None
    out: Path | None = None
    loggers: tuple[str, ...] = ()
    measure: bool = False
    model_file: Path | None = None
    check: bool = True


@dataclass(frozen=True)
class Prepared:
    """A text in tokens, and the plan for it; made for the `rate` that `plan_run` was told."""

    split: SplitCorpus
    encoded: EncodedCorpus
    tokenizer: Tokenizer
    config: RunConfig
    reasons: dict[str, str]
    rate: float


def prepare(
    request: TrainRequest,
    corpus: Corpus,
    data: DataConfig,
    run: RunDirectory,
    compute: Compute,
    told: Observers,
    rate: float | None = None,
    tokenizer: Tokenizer | None = None,
) -> Prepared:
    """Split a corpus, encode it into a run's directory, and plan the run.

    `rate` is as in `plan_run`; None is that of this machine. A `tokenizer` is that of the model
    that the run begins with.

    Raises:
        BadInputError: something given can't be used.
    """
    earlier = list(_earlier_data(run))
    known_by = signature(corpus, data)
    progress = progress_told(told, "reading the corpus")
    split = reused_split(known_by, run.data, earlier) or split_corpus(
        corpus, data, run.data, progress=progress
    )
    require_holdout(request.train.get("early_stopping", 0), split.holdout.n_bytes)
    measured: dict[str, str] = {}
    if rate is None:
        rate, measured = _rate(request, compute, told)
    told.observe(Phase("training the tokenizer"))
    notes: dict[str, Any] = {"signature": known_by}
    if tokenizer is None:
        tokenizer, tokenizer_config, reasons = _tokenizer(request, split, rate, earlier, notes)
    else:
        tokenizer = with_roles(tokenizer) if has_chats(split) else tokenizer
        # That of a model to begin with may be larger than its tokenizer.
        n_ids = max(tokenizer.vocab_size, request.model.get("vocab_size", 0))
        request = replace(request, model={**request.model, "vocab_size": n_ids})
        tokenizer_config, reasons = TokenizerConfig(tokenizer.kind, tokenizer.vocab_size), {}
    data, reasons = _resolved(data, split, reasons)
    told.observe(Phase("encoding the corpus"))
    progress = progress_told(told, "encoding the corpus")
    workers = data.workers or os.cpu_count() or 1
    encoded = encode_corpus(split, tokenizer, earlier, workers, progress, notes)
    config, planned = _plan(request, data, tokenizer_config, split, encoded, compute, rate)
    end_id = tokenizer.end_id if split.has_several or tokenizer.roles else None
    if has_chats(split) and tokenizer.template is not None:
        end_id = tokenizer.template.end_id
    if end_id is not None:
        config = replace(config, model=replace(config.model, end_id=end_id))
    return Prepared(split, encoded, tokenizer, config, reasons | planned | measured, rate)


def progress_told(told: Observers, name: str) -> Callable[[int, int], None]:
    """Tells how many bytes a phase has done that begins now: after a second, then some twenty
    times."""
    began = time.perf_counter()
    due = began + 1.0

    def tell(done: int, total: int) -> None:
        nonlocal due
        now = time.perf_counter()
        if done and now >= due:
            rate = done / (now - began)
            due = now + max(1.0, 0.05 * total / rate)
            left = (total - done) / rate
            how_fast = f"{rate / 1e6:.1f} MB a second, {left:,.0f} s left"
            told.observe(Phase(f"{name}: {done / total:.0%}, {how_fast}"))

    return tell


def _rate(
    request: TrainRequest, compute: Compute, told: TrainingObserver
) -> tuple[float, dict[str, str]]:
    # Operations of training a second, and what to tell of them.
    if "steps" in request.train:
        return NOMINAL_RATES[compute.device_name], {}
    engine = request.train.get("engine", "auto")
    speed = None if request.measure else kept_speed(compute, engine)
    if speed is None:
        told.observe(Phase("measuring this machine, once, for a second"))
        speed = measure_speed(compute, engine)
    return speed.planned_rate, {"device": speed.told(time.time())}


def _resolved(
    data: DataConfig, split: SplitCorpus, reasons: dict[str, str]
) -> tuple[DataConfig, dict[str, str]]:
    """The settings as they are noted, with a reason for what was not given."""
    n_documents = sum(len(part.table()) for part in (split.train, split.holdout))
    told = dict(reasons)
    if data.split is None and data.held_file is None:
        few = "too few documents to choose from" if split.has_several else "of one text"
        told["split"] = f"of {n_documents:,} documents" if split.method == "hash" else few
    lists = {
        "read as": split.formats if dict(split.formats).keys() != {"text"} else (),
        "left out": split.left_out,
        "skipped": [(f"records of {file}", count) for file, count in split.skipped],
    }
    found = [
        f"{what} {', '.join(f'{count:,} {name}' for name, count in counts)}"
        for what, counts in lists.items()
        if counts
    ]
    if found:
        told["corpus"] = "; ".join(found)
    directory = _working_directory(data)
    skipped = sum(count for _, count in split.skipped) or None
    noted = replace(data, working_directory=directory, split=split.method, skipped=skipped)
    return noted, told


def _working_directory(data: DataConfig) -> str | None:
    """Where relative names start from; None if there are none, or `run.toml` can't hold it."""
    if all(name == "-" or Path(name).is_absolute() for name in data.names):
        return None
    with contextlib.suppress(OSError, UnicodeEncodeError):
        return str(Path.cwd()).encode("utf-8").decode("utf-8")
    return None


def require_holdout(early_stopping: int, n_holdout: int) -> None:
    """Refuse to wait for a better loss on a holdout of so many tokens, if there is none to score.

    Raises:
        BadInputError: saying what to leave out.
    """
    if early_stopping and n_holdout < 2:
        raise BadInputError(
            "early stopping waits for a better holdout loss, and there is no holdout to score",
            "Use --early-stopping 0, or hold out a longer text",
        )


def _tokenizer(
    request: TrainRequest,
    split: SplitCorpus,
    rate: float,
    earlier: Sequence[Path],
    notes: dict[str, Any],
) -> tuple[Tokenizer, TokenizerConfig, dict[str, str]]:
    if request.tokenizer_directory is not None:
        if request.tokenizer:
            raise BadInputError(
                "--tokenizer names a finished tokenizer, and --kind or --vocab-size a new one",
                "Give one or the other",
            )
        # A run may be named, too, by its bare name as everywhere.
        given = named_run(request.tokenizer_directory)
        loaded = open_tokenizer(given) if find_run(given) else load_tokenizer(given)
        if has_chats(split):
            loaded = with_roles(loaded)
        elif split.has_several:
            loaded = with_end_of_text(loaded)
        config = TokenizerConfig(loaded.kind, loaded.vocab_size)
        return loaded, config, {"kind": f"from {request.tokenizer_directory}"}
    sizes = [noted["size"] for _, noted in reused_notes(split, earlier) if "size" in noted]
    parts = (part for document in split.train.documents() for part in document)
    text = TextSize(*sizes[0]) if sizes else TextSize.of(parts)
    capacity = plan_capacity(text, rate, request.model, request.train)
    config, reasons = plan_tokenizer(text, request.tokenizer, capacity)
    trained = reused_tokenizer(split, config.kind, config.vocab_size, earlier)
    if trained is None:
        if has_most := one_with_most_of(notes["signature"], earlier):
            _log.info("with --tokenizer %s, only what is new of this text is encoded", has_most)
        trained = learned_tokenizer(split, config.kind, config.vocab_size)
    notes["size"] = astuple(text)
    notes["asked_for"] = [__version__, config.kind, config.vocab_size]
    return trained, replace(config, vocab_size=trained.vocab_size), reasons


def _plan(
    request: TrainRequest,
    data: DataConfig,
    tokenizer_config: TokenizerConfig,
    split: SplitCorpus,
    encoded: EncodedCorpus,
    compute: Compute,
    rate: float,
) -> tuple[RunConfig, dict[str, str]]:
    n_train, n_holdout = len(encoded.train_ids), len(encoded.holdout_ids)
    vocab_size = request.model.get("vocab_size", tokenizer_config.vocab_size)
    n_conversation = 0
    if has_chats(split):
        n_bytes = np.quantile(np.diff(split.train.table()["end"], prepend=0), 0.95)
        n_conversation = round(n_bytes * n_train / split.train.n_bytes)
    tokens = TokenFigures(vocab_size, n_train, n_holdout, n_conversation)
    config, reasons = plan_run(data, tokenizer_config, tokens, rate, request.model, request.train)
    require_one_window(n_train, config.model.context_length, "the train part")
    require_holdout(config.train.early_stopping, n_holdout)
    seconds = 0.0 if config.train.shard else config.train.budget_seconds or 0.0
    planned_engine = plan_engine(compute.device, seconds)
    resolved = replace(
        config.train,
        device=compute.device_name,
        engine=request.train.get("engine", planned_engine),
        dtype=compute.dtype_name,
        threads=torch.get_num_threads(),
        data_order=request.train.get("data_order", DATA_ORDER),
    )
    return replace(config, train=resolved), reasons


def _earlier_data(run: RunDirectory) -> Iterator[Path]:
    """Encoded corpora of the runs beside this one, the newest first."""
    parent = run.path.parent if run.path.parent != Path() else RUNS
    others = [path for path in parent.glob("*/data") if path != run.data]
    yield from sorted(others, key=lambda path: path.stat().st_mtime, reverse=True)
