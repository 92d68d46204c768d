"""What `import minitx` offers: train, resume and use a model, in the words of the command line."""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, TypeVar, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from minitx.config import EvaluationSettings, SamplingConfig
from minitx.config.options import options_of
from minitx.config.overrides import (
    config_from_options,
    merged,
    require_known,
    tables_from_options,
)
from minitx.config.run_config import TABLES
from minitx.errors import BadInputError, MinitxError, as_sentence
from minitx.evaluation.holdout_figures import HoldoutReport
from minitx.files import possible_path
from minitx.generation import stream
from minitx.inspection.attention_maps import AttentionMaps, read_attention, require_fits
from minitx.model import evaluating
from minitx.report.evaluation.evaluation_progress import EvaluationProgress
from minitx.report.training.training_view import choose_view
from minitx.training.memory import refuse_too_large
from minitx.training.observer import TrainingObserver
from minitx.trust import trusting
from minitx.workflows.attend import AttentionStudy, study_model
from minitx.workflows.evaluate import evaluate_model
from minitx.workflows.load import LoadedModel
from minitx.workflows.load import load as open_model
from minitx.workflows.resume import ResumeRequest
from minitx.workflows.resume import resume as resume_run
from minitx.workflows.train import FinishedRun, TrainRequest
from minitx.workflows.train import train as train_run

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["FinishedRun", "Model", "load", "resume", "train"]


F = TypeVar("F", bound=Callable[..., Any])

_KINDS: dict[Any, tuple[Any, str]] = {
    "int": (int, "a whole number"),
    "int | None": (int, "a whole number"),
    "str": (str, "a text"),
    "str | None": (str, "a text"),
    "str | Path | None": ((str, os.PathLike), "a path"),
    "Sequence[str]": ((list, tuple), "a list"),
    "Sequence[TrainingObserver]": ((list, tuple), "a list"),
}
"""By the annotation of a parameter, what it may be beside None, and that in words."""

_KEYS = {option.word: option.name for config in (*TABLES.values(), SamplingConfig)
         for option in options_of(config) if option.word}  # fmt: skip
# A whole command stays as it is.
_FLAG = re.compile(r"minitx [a-z]+ [^,;]*|--([a-z][a-z-]*)")


def _for_scripts(function: F) -> F:
    """Refuse arguments of another type, and let errors name what a script wrote: `top_k` for
    `--top-k`, `layers` for `n_layers`.
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        def told(text: str) -> str:
            text = _FLAG.sub(lambda m: m[1].replace("-", "_") if m[1] else m[0], text)
            for word in options.keys() & _KEYS.keys():
                text = re.sub(rf"\b{_KEYS[word]}\b", word, text)
            return text

        try:
            for name, value in signature.bind(*arguments, **options).arguments.items():
                kind, words = _KINDS.get(signature.parameters[name].annotation, (object, ""))
                if value is not None and not isinstance(value, kind):
                    raise BadInputError(f"{name} is {value!r}, not {words}", f"Give {words}")
            return function(*arguments, **options)
        except MinitxError as error:
            error.what, error.fix = told(error.what), told(error.fix)
            error.args = (f"{as_sentence(error.what)} {error.fix}",)
            raise

    return cast(F, call)


class SamplingOptions(TypedDict, total=False):
    """How text is drawn: the options of `minitx generate`, with the same defaults."""

    max_new_tokens: int
    min_new_tokens: int
    ignore_eos: bool
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

    Its methods raise `BadInputError` for a text or an option that can't be used.

    Attributes:
        directory: of its checkpoint, which `transformers` opens, too.
        model: the transformer, a `torch.nn.Module` in eval mode.
        tokenizer: with `encode` and `decode`.
        run, step: that it was saved in and after; None if the directory does not say.
    """

    @_for_scripts
    def generate(self, prompt: str, **options: Unpack[SamplingOptions]) -> str:
        """Continue a text, and return what was added. The same seed gives the same text.

        Args:
            prompt: at least one token, at most the context.
            options: as for `minitx generate`, for example ``temperature=0.5, top_k=40``.
        """
        return self.sample([prompt], _sampling(options))[0].text

    @_for_scripts
    def stream(self, prompt: str, **options: Unpack[SamplingOptions]) -> Iterator[str]:
        """The pieces of what `generate` returns, each as soon as it can no longer change."""
        return stream(self.model, self.tokenizer, prompt, _sampling(options))

    @_for_scripts
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
        progress: bool = False,
    ) -> HoldoutReport:
        """Measure loss (nats per token), perplexity and bits per byte; the report shows itself.

        Args:
            text: path of a text file; None for the holdout of the model's run.
            context, stride, max_tokens, baselines, quick, unknown: as for `minitx eval`.
            progress: show on stderr what is being done.
        """
        settings = EvaluationSettings(
            context, stride, max_tokens, baselines, quick, unknown=unknown
        )
        source = None if text is None else str(_path(text))
        if not progress:
            return evaluate_model(self, source, settings)
        with EvaluationProgress(sys.stderr) as shown:
            return evaluate_model(self, source, settings, shown.update)

    @_for_scripts
    def attention(self, text: str) -> AttentionMaps:
        """Attention of every head on a text: maps that show themselves.

        Their `weights` are (layers, heads, tokens, tokens); each row sums to 1.
        """
        return read_attention(self.model, self.tokenizer, self._ids(text))

    @_for_scripts
    def study(self, text: str | None = None) -> AttentionStudy:
        """Maps, head roles, logit lens, ablation, mask check: all that `minitx attn` measures.

        Without a text, it is the beginning of the holdout that is looked at.
        """
        return study_model(self, text)

    @_for_scripts
    def logits(self, text: str) -> Tensor:
        """Logits of the token after each token of a text, (tokens, vocab_size).

        They are the plain model's, on its device, without gradients.
        """
        ids = torch.from_numpy(self._ids(text)).to(next(self.model.parameters()).device)
        with torch.no_grad(), evaluating(self.model):
            logits: Tensor = self.model(ids[None])[0]
        return logits

    def _ids(self, text: str) -> npt.NDArray[np.int64]:
        ids = self.tokenizer.encode(text).astype(np.int64)
        require_fits(len(ids), self.model.config)
        return ids


@_for_scripts
def load(
    path: str | Path | None = None,
    *,
    checkpoint: Literal["best", "last"] = "best",
    device: str = "auto",
    dtype: str = "auto",
    quantize: str | None = None,
    trust_code: bool = False,
) -> Model:
    """Open a run or a checkpoint.

    Args:
        path: a run, its name under ``runs``, or a checkpoint directory; None for the newest run.
        checkpoint, device, dtype, quantize: as for `minitx generate`.
        trust_code: run code that the checkpoint has of its own: that of a model of somebody's own.

    Raises:
        BadInputError: there is no such run, or an option can't be used.
        DamagedFileError: the checkpoint is damaged.
    """
    with trusting(trust_code):
        loaded = open_model(_path(path), checkpoint, device, dtype, quantize)
    return Model(loaded.directory, loaded.model, loaded.tokenizer)


@_for_scripts
def train(
    *corpus: str | Path,
    config: str | Path | None = None,
    out: str | Path | None = None,
    tokenizer: str | Path | None = None,
    loggers: Sequence[str] = (),
    measure: bool = False,
    model: str | Path | None = None,
    check: bool = True,
    observers: Sequence[TrainingObserver] = (),
    progress: bool = False,
    **options: Any,
) -> FinishedRun:
    """Train a model on a text; what is left out is planned, as by `minitx train`.

    Args:
        corpus: files, directories or patterns; none for the Python reference.
        config, out, tokenizer, loggers, measure, model: as for `minitx train`.
        check: whether a `model` that sees what comes later is refused.
        observers: called with every event of training.
        progress: show on stdout what the command line does.
        options: those of `minitx train`, as ``steps=200, layers=2, d_model=64, budget="3m"``.

    Raises:
        BadInputError: something given can't be used; no run directory is left behind.
        InstabilityError: the loss became NaN or diverged.
        InterruptedRunError: a signal (Ctrl-C) stopped it; the run is saved.
    """
    if corpus:
        options["corpus"] = corpus
    tables = merged(_path(config), tables_from_options(**options))
    refuse_too_large(tables["model"])
    request = TrainRequest(
        **tables, tokenizer_directory=_path(tokenizer), out=_path(out), loggers=tuple(loggers),
        measure=measure, model_file=_path(model), check=check,
    )  # fmt: skip
    with _watching(observers, progress) as watching:
        return train_run(request, watching)


@_for_scripts
def resume(
    run: str | Path | None = None,
    *,
    allow_changed_corpus: bool = False,
    loggers: Sequence[str] = (),
    observers: Sequence[TrainingObserver] = (),
    progress: bool = False,
    **options: Any,
) -> FinishedRun:
    """Continue a run from its last checkpoint, also to more steps than first planned.

    Args:
        run: its directory, or its name under ``runs``; None for the newest run.
        allow_changed_corpus: go on although the text has changed.
        loggers, observers, progress: as in `train`.
        options: those of `minitx resume`, for example ``steps=400``.

    Raises:
        BadInputError: there is no such run, nothing is left to do, or an option can't be changed.
        DamagedFileError: no checkpoint of the run is whole.
        RunLockedError: another process trains it.
        InstabilityError, InterruptedRunError: as in `train`.
    """
    # Of all tables: the workflow says which keys can be changed.
    changes = {key: value for table in tables_from_options(**options).values()
               for key, value in table.items()}  # fmt: skip
    request = ResumeRequest(_path(run), changes, allow_changed_corpus, tuple(loggers))
    with _watching(observers, progress) as watching:
        return resume_run(request, watching)


@contextlib.contextmanager
def _watching(
    observers: Sequence[TrainingObserver], progress: bool
) -> Iterator[Sequence[TrainingObserver]]:
    if not all(hasattr(observer, "observe") for observer in observers):
        raise BadInputError(f"observers is {observers!r}", "Give objects with a method `observe`")
    if not progress:
        yield observers
        return
    with contextlib.closing(choose_view(sys.stdout)) as view:
        yield [*observers, view]


def _path(path: str | Path | None) -> Path | None:
    return None if path is None else possible_path(Path(path))


def _sampling(options: SamplingOptions) -> SamplingConfig:
    require_known(options, SamplingOptions.__annotations__, "generate")
    return config_from_options(SamplingConfig, dict(options))
