"""What `import minitx` offers: train, resume and use a model, in the words of the command line."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict

import numpy as np
import torch
from torch import Tensor

from minitx.checkpoint.rundir import RUNS
from minitx.config import SamplingConfig
from minitx.config.overrides import config_from_options, merged, tables_from_options
from minitx.errors import BadInputError
from minitx.evaluation.holdout_figures import HoldoutReport
from minitx.generation import stream
from minitx.inspection.attention_maps import AttentionMaps, read_attention, require_fits
from minitx.inspection.evaluating import evaluating
from minitx.training.memory import refuse_too_large
from minitx.training.observer import TrainingObserver
from minitx.workflows.attend import AttentionStudy, study_model
from minitx.workflows.evaluate import EvaluationSettings, Progress, evaluate_model, no_progress
from minitx.workflows.load import LoadedModel
from minitx.workflows.load import load as open_model
from minitx.workflows.resume import ResumeRequest
from minitx.workflows.resume import resume as resume_run
from minitx.workflows.train import FinishedRun, TrainRequest
from minitx.workflows.train import train as train_run

__all__ = ["FinishedRun", "Model", "load", "resume", "train"]

if TYPE_CHECKING:
    from typing_extensions import Unpack


class SamplingOptions(TypedDict, total=False):
    """How text is drawn: the options of `minitx generate`, with the same defaults."""

    max_new_tokens: int
    min_new_tokens: int
    seed: int
    temperature: float
    top_k: int | None
    top_p: float
    min_p: float
    typical_p: float
    repetition_penalty: float
    frequency_penalty: float
    presence_penalty: float
    logit_bias: dict[int, float]
    stop: str | Sequence[str]
    ban: str | Sequence[str]
    require: str | Sequence[str]


class Model(LoadedModel):
    """A trained model with its tokenizer: what `minitx.load` gives.

    Attributes:
        directory: of its checkpoint, which `transformers` opens, too.
        model: the transformer, a `torch.nn.Module` in eval mode.
        tokenizer: with `encode` and `decode`.
        run: directory of the run that it belongs to; None if it is in none.
        step: of training after which it was saved; None if the directory's name does not say.
    """

    def generate(self, prompt: str, **options: Unpack[SamplingOptions]) -> str:
        """Continue a text: the new text alone. The same seed gives the same text.

        Args:
            prompt: at least one token, at most the context, in characters that the tokenizer knows.
            options: as for `minitx generate`, for example ``temperature=0.5, top_k=40``.

        Raises:
            BadInputError: the prompt or an option can't be used.
        """
        return self.sample([prompt], _sampling(options))[0].text

    def stream(self, prompt: str, **options: Unpack[SamplingOptions]) -> Iterator[str]:
        """The pieces of what `generate` returns, each as soon as it can no longer change.

        Raises:
            BadInputError: as in `generate`, before the first piece.
        """
        return stream(self.model, self.tokenizer, prompt, _sampling(options))

    def evaluate(
        self,
        text: str | Path | None = None,
        *,
        context: int | None = None,
        stride: int | None = None,
        max_tokens: int = 0,
        baselines: bool = True,
        quick: bool = False,
        unknown: Literal["error", "replace"] = "error",
        progress: Progress = no_progress,
    ) -> HoldoutReport:
        """Measure loss (nats per token), perplexity and bits per byte; the report shows itself.

        Args:
            text: path of a text file; None for the holdout of the model's run.
            context: most tokens that a prediction sees; None for the model's.
            stride: tokens that each overlapping window scores; None for half the context.
            max_tokens: score about so many, evenly spaced; 0 for all.
            baselines: measure n-grams and compressors, too.
            quick: the loss alone, without baselines and details.
            unknown: refuse characters that a `char` tokenizer lacks, or score them as unknown.
            progress: called with what is being done, and how many of how many tokens are done.

        Raises:
            BadInputError: there is no holdout, or the text or an option can't be used.
        """
        settings = EvaluationSettings(
            context, stride, max_tokens, baselines, quick, unknown=unknown
        )
        return evaluate_model(self, None if text is None else str(text), settings, progress)

    def attention(self, text: str) -> AttentionMaps:
        """Attention of every head on a text: maps that show themselves.

        Their `weights` are (layers, heads, tokens, tokens); each row sums to 1.

        Raises:
            BadInputError: the text is empty, longer than the context, or has unknown characters.
        """
        return read_attention(self.model, self.tokenizer, self._ids(text))

    def study(self, text: str | None = None) -> AttentionStudy:
        """All that `minitx attn` measures: maps, head roles, logit lens, ablation, mask check.

        Args:
            text: to look at; None for the beginning of the holdout.

        Raises:
            BadInputError: as in `attention`; or there is neither text nor holdout.
        """
        return study_model(self, text)

    def logits(self, text: str) -> Tensor:
        """Logits of the token after each token of a text, (tokens, vocab_size), on the device.

        They are the plain model's, without gradients.

        Raises:
            BadInputError: as in `attention`.
        """
        ids = torch.from_numpy(self._ids(text)).to(next(self.model.parameters()).device)
        with torch.no_grad(), evaluating(self.model):
            logits: Tensor = self.model(ids[None])[0]
        return logits

    def _ids(self, text: str) -> np.ndarray[Any, np.dtype[np.int64]]:
        ids = self.tokenizer.encode(text).astype(np.int64)
        require_fits(len(ids), self.model.config)
        return ids


def load(
    path: str | Path | None = None,
    *,
    checkpoint: Literal["best", "last"] = "best",
    device: str = "auto",
    dtype: str = "auto",
    quantize: str | None = None,
) -> Model:
    """Open a run or a checkpoint.

    Args:
        path: a run, its name under ``runs``, or a checkpoint directory; None for the newest run.
        checkpoint: which of a run.
        device: `auto`, `cpu`, `cuda` or `mps`.
        dtype: of the weights: `float32` (as `auto`) or `bfloat16`.
        quantize: `int8` or `bfloat16` to keep the weights in fewer bits.

    Raises:
        BadInputError: there is no such run, or an option can't be used.
        DamagedFileError: the checkpoint is damaged.
    """
    loaded = open_model(_run_path(path), checkpoint, device, dtype, quantize)
    return Model(loaded.directory, loaded.model, loaded.tokenizer)


def train(
    *corpus: str | Path,
    config: str | Path | None = None,
    out: str | Path | None = None,
    tokenizer: str | Path | None = None,
    loggers: Sequence[str] = (),
    observers: Sequence[TrainingObserver] = (),
    **options: Any,
) -> FinishedRun:
    """Train a model on a text; what is left out is planned, as by `minitx train`.

    Args:
        corpus: files, directories or patterns; none for the Python reference.
        config: TOML file with tables of ``run.toml``; the options win over it.
        out: run directory to make; None for the next free one under ``runs``.
        tokenizer: directory of a finished tokenizer to use.
        loggers: names of those that note the run, for example ``tensorboard``.
        observers: called with every event of training.
        options: those of `minitx train`, as ``steps=200, layers=2, d_model=64, budget="3m"``.

    Returns:
        The run's directory, and how it ended.

    Raises:
        BadInputError: something given can't be used; no run directory is left behind.
        InstabilityError: the loss became NaN or diverged.
        InterruptedRunError: a signal (Ctrl-C) stopped it; the run is saved.
    """
    if corpus:
        options["corpus"] = corpus
    tables = merged(None if config is None else Path(config), tables_from_options(**options))
    refuse_too_large(tables["model"])
    request = TrainRequest(
        **tables,
        tokenizer_directory=None if tokenizer is None else Path(tokenizer),
        out=None if out is None else Path(out),
        loggers=tuple(loggers),
    )
    return train_run(request, observers)


def resume(
    run: str | Path | None = None,
    *,
    allow_changed_corpus: bool = False,
    loggers: Sequence[str] = (),
    observers: Sequence[TrainingObserver] = (),
    **options: Any,
) -> FinishedRun:
    """Continue a run from its last checkpoint, also to more steps than first planned.

    Args:
        run: its directory, or its name under ``runs``; None for the newest run.
        allow_changed_corpus: go on although the text has changed.
        loggers, observers: as in `train`.
        options: those of `minitx resume`, for example ``steps=400``.

    Raises:
        BadInputError: there is no such run, nothing is left to do, or an option can't be changed.
        DamagedFileError: no checkpoint of the run is whole.
        RunLockedError: another process trains it.
        InstabilityError, InterruptedRunError: as in `train`.
    """
    # Of other tables, too: `resume_run` says which keys can be changed.
    changes = {
        key: value
        for table in tables_from_options(**options).values()
        for key, value in table.items()
    }
    request = ResumeRequest(_run_path(run), changes, allow_changed_corpus, tuple(loggers))
    return resume_run(request, observers)


def _run_path(path: str | Path | None) -> Path | None:
    if path is None:
        return None
    named = Path(path)
    in_runs = RUNS / named
    return in_runs if not named.exists() and in_runs.is_dir() else named


def _sampling(options: SamplingOptions) -> SamplingConfig:
    for word in options:
        if word not in SamplingOptions.__annotations__:
            near = difflib.get_close_matches(word, SamplingOptions.__annotations__, cutoff=0.5)
            hint = f"Did you mean {' or '.join(near)}?" if near else "See minitx generate --help"
            raise BadInputError(f"there is no option {word}", hint)
    return config_from_options(SamplingConfig, dict(options))
