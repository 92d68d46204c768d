"""One session of training: from a run directory, a model and a state to the last step.

Both a new run and a resumed one are a session; they differ in where model and state come from.
"""

from __future__ import annotations

import contextlib
import json
import math
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from minitx import __version__
from minitx.checkpoint.huggingface import model_files
from minitx.checkpoint.rundir import CONFIG_COPY, RunDirectory, config_bytes
from minitx.checkpoint.weights import model_tensors
from minitx.checkpoint.writer import CheckpointWriter, Snapshot
from minitx.compute import Compute, can_compile, keep_freed_memory
from minitx.config import ModelConfig, RunConfig, SamplingConfig, TrainConfig
from minitx.config.train_config import AttentionForm
from minitx.corpus import EncodedCorpus
from minitx.corpus.encoded import DESCRIPTION
from minitx.diagnosis.live import LiveDiagnosis
from minitx.errors import BadInputError, DamagedFileError
from minitx.evaluation.scoring import score
from minitx.generation import generate
from minitx.model import Transformer
from minitx.model.attention_choice import choose_form
from minitx.tokenizer import Tokenizer
from minitx.training.anomalies import Watch
from minitx.training.batches import Batches, PrefetchedBatches
from minitx.training.good_states import GoodStates
from minitx.training.logging import LOGGERS
from minitx.training.loop import HoldoutLoss, StopEvaluation, Surroundings, Trainer
from minitx.training.observer import OBSERVERS, Observers, RunEnd, RunStart, TrainingObserver
from minitx.training.optimizers import make_optimizer
from minitx.training.optimizers.optimizer_base import Optimizer
from minitx.training.signals import StopRequest
from minitx.training.state import TrainingState

STATE_FILE = "training_state.json"
OPTIMIZER_FILE = "optimizer.safetensors"
DIAGNOSIS_FILE = "diagnosis.json"
GOOD_STATES_FILE = "good_states.safetensors"
MADE_WITH_FILE = "made_with.json"

_SAMPLE_TOKENS = {"cpu": 160}
_SAMPLE_TOKENS_ELSEWHERE = 64
"""One token takes a GPU as long as a step of a small model does."""


@dataclass(frozen=True)
class Session:
    """Everything that a session of training needs.

    Attributes:
        run: its directory, locked by the caller.
        config: resolved.
        reasons: for each key that the plan chose.
        corpus: encoded.
        tokenizer: of the corpus.
        model: on the device.
        compute: device and number format.
        state: where the run stands.
        optimizer_tensors: saved moments; None for a new run.
        diagnosis: what `diagnosis.json` of the checkpoint says; empty for a new run.
        good_state_tensors: of the states that a rollback may return to.
        loggers: names of those that note the run beside `metrics.jsonl`.
    """

    run: RunDirectory
    config: RunConfig
    reasons: dict[str, str]
    corpus: EncodedCorpus
    tokenizer: Tokenizer
    model: Transformer
    compute: Compute
    state: TrainingState
    optimizer_tensors: dict[str, Tensor] | None = None
    diagnosis: dict[str, Any] = field(default_factory=dict)
    good_state_tensors: dict[str, Tensor] = field(default_factory=dict)
    loggers: tuple[str, ...] = ()


def run_session(
    session: Session, observers: Sequence[TrainingObserver], stop: StopRequest
) -> RunEnd:
    """Train to the last step; whatever happens, what was saved before stays whole.

    Raises:
        InstabilityError, InterruptedRunError, BadInputError: see `Trainer.run`.
    """
    keep_freed_memory()
    config, state, model = session.config.train, session.state, session.model
    if config.compile and not can_compile(session.compute.device):
        raise BadInputError(
            f"torch.compile can't be used on {session.compute.device_name}: a compiler is missing "
            "(a C++ compiler for a CPU, cc and Triton for cuda)",
            "Use --no-compile (to resume: --device, which leaves it out), or install one",
        )
    optimizer = make_optimizer(model, config, session.compute.dtype)
    if session.optimizer_tensors is not None:
        _load_optimizer(session, optimizer, session.optimizer_tensors)
    with contextlib.ExitStack() as stack:
        writer = CheckpointWriter(session.run, config.keep_checkpoints)
        stack.push(_finish(writer))
        observer = stack.enter_context(_observers(session, observers))
        batches = stack.enter_context(
            PrefetchedBatches(
                session.corpus.train_ids,
                model.config.context_length,
                config.batch_size,
                config.seed,
                session.compute.device,
            )
        )
        watch = _watch(session, batches, observer)
        good_states = _good_states(session, optimizer, watch)
        trainer = Trainer(
            model=model,
            optimizer=optimizer,
            batches=batches,
            config=config,
            compute=session.compute,
            state=state,
            observer=observer,
            around=_surroundings(session, optimizer, writer, watch, good_states, stop),
            stop=stop,
            watch=watch,
            good_states=good_states,
        )
        observer.observe(_run_start(session))
        stop.defer()
        return trainer.run()


def attention_in_use(config: TrainConfig, compute: Compute, model: ModelConfig) -> AttentionForm:
    """The form of attention that training computes: the one asked for, or the faster one."""
    if config.attention != "auto":
        return config.attention
    return choose_form(
        compute.device.type, compute.dtype, model.context_length, dropout=model.dropout > 0
    )


def _watch(session: Session, batches: Batches, observer: TrainingObserver) -> Watch:
    watch = LiveDiagnosis(
        session.model,
        session.config.train,
        session.compute,
        batches,
        session.corpus.train_ids,
        session.corpus.holdout_ids,
        observer,
    )
    # A run that is lengthened warms up anew: its losses are not compared with those before.
    lengthened = session.state.step > 0 and session.state.rewarm_step == session.state.step
    if session.diagnosis and not lengthened:
        try:
            watch.restore(session.diagnosis["watch"])
        except (ValueError, LookupError, TypeError) as error:
            raise DamagedFileError(
                f"{DIAGNOSIS_FILE} can't be used: {error}", "Use another checkpoint of the run"
            ) from None
    return watch


def _good_states(session: Session, optimizer: Optimizer, watch: Watch) -> GoodStates | None:
    if session.config.train.on_spike != "rollback":
        return None
    good_states = GoodStates(session.model, optimizer, watch)
    saved = session.diagnosis.get("good_states", [])
    good_states.load(saved, session.good_state_tensors, session.state.step)
    return good_states


def _load_optimizer(session: Session, optimizer: Optimizer, tensors: dict[str, Tensor]) -> None:
    try:
        optimizer.load_state_tensors(tensors)
    except (KeyError, RuntimeError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error).splitlines()[0]
        raise DamagedFileError(
            f"{OPTIMIZER_FILE} of step {session.state.step:,} does not fit the model: {reason}",
            "Use another checkpoint of the run, or train again",
        ) from None


def _finish(writer: CheckpointWriter) -> Callable[..., None]:
    def finish(kind: type[BaseException] | None, *_: object) -> None:
        # A second Ctrl-C waits for nothing: the checkpoint under way is then no checkpoint.
        if kind is None or not issubclass(kind, KeyboardInterrupt):
            writer.wait()

    return finish


def _surroundings(
    session: Session,
    optimizer: Optimizer,
    writer: CheckpointWriter,
    watch: Watch,
    good_states: GoodStates | None,
    stop: StopRequest,
) -> Surroundings:
    corpus_description = (session.corpus.directory / DESCRIPTION).read_bytes()
    made_with = (json.dumps(_made_with(session), indent=2) + "\n").encode()

    n_holdout = len(session.corpus.holdout_ids)

    def at_most(n_tokens: int) -> int:
        return min(n_tokens or n_holdout, n_holdout)

    def saved() -> list[tuple[int, Path]]:
        return writer.written()

    def save(state: TrainingState, train: TrainConfig) -> None:
        own_files = {
            STATE_FILE: state.to_json(),
            CONFIG_COPY: config_bytes(replace(session.config, train=train)),
            DESCRIPTION: corpus_description,
            MADE_WITH_FILE: made_with,
        }
        writer.submit(_snapshot(session, optimizer, state, own_files, watch, good_states))
        # The first one, so that a run is never without; the last, so that it is told as saved.
        if state.step == 0 or state.step >= state.steps:
            writer.wait()

    def settle(train: TrainConfig) -> None:
        session.run.write_config(replace(session.config, train=train))

    return Surroundings(
        run=session.run.path,
        evaluate=_evaluator(session, stop),
        sample=_sampler(session),
        save=save,
        saved=saved,
        settle=settle,
        n_holdout=n_holdout if n_holdout > 1 else 0,
        n_scored=at_most(session.config.train.evaluation_tokens),
        n_closing=at_most(session.config.train.closing_tokens),
    )


def _made_with(session: Session) -> dict[str, str]:
    """What a run's numbers depend on beside its settings (docs/reproducible.md)."""
    start = _run_start(session)
    return {
        "minitx": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "device": start.device,
        "threads": str(torch.get_num_threads()),
        "dtype": start.dtype,
        "attention": start.attention,
    }


def _snapshot(
    session: Session,
    optimizer: Optimizer,
    state: TrainingState,
    own_files: dict[str, bytes],
    watch: Watch,
    good_states: GoodStates | None,
) -> Snapshot:
    diagnosis: dict[str, Any] = {"watch": watch.state()}
    kept: dict[str, dict[str, Tensor]] = {}
    if good_states is not None:
        diagnosis["good_states"] = good_states.description()
        # Nothing changes these any more, so they need no copies.
        kept = {GOOD_STATES_FILE: good_states.tensors(state.step)}
    # Copies, since the next step changes the originals while these are being written.
    return Snapshot(
        step=state.step,
        best_step=state.best_step or None,
        files={
            **model_files(session.model, session.tokenizer),
            **own_files,
            DIAGNOSIS_FILE: (json.dumps(diagnosis) + "\n").encode(),
        },
        tensors={
            "model.safetensors": _copies(model_tensors(session.model)),
            OPTIMIZER_FILE: _copies(optimizer.state_tensors()),
            **{name: tensors for name, tensors in kept.items() if tensors},
        },
    )


def _copies(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()
    }


def _evaluator(session: Session, stop: StopRequest) -> Callable[[bool], HoldoutLoss]:
    corpus, model, compute = session.corpus, session.model, session.compute
    config = session.config.train
    ids = corpus.holdout_ids
    bytes_per_token = corpus.holdout.bytes / max(1, len(ids))

    def evaluate(closing: bool) -> HoldoutLoss:
        def check_stop(_: int) -> None:
            if closing and stop.signal_number is not None:
                raise StopEvaluation

        scored = score(
            model,
            ids,
            max_tokens=config.closing_tokens if closing else config.evaluation_tokens,
            autocast_dtype=None if compute.dtype == torch.float32 else compute.dtype,
            progress=check_stop,
        )
        return HoldoutLoss(scored.loss, scored.loss / math.log(2) / bytes_per_token)

    return evaluate


def _sampler(session: Session) -> Callable[[], tuple[str, str]]:
    prompt = _sample_prompt(session)
    config = SamplingConfig(
        temperature=0.8,
        top_k=min(40, session.model.config.vocab_size),
        max_new_tokens=_SAMPLE_TOKENS.get(session.compute.device.type, _SAMPLE_TOKENS_ELSEWHERE),
        seed=session.config.train.seed,
    )

    def sample() -> tuple[str, str]:
        drawn = generate(session.model, session.tokenizer, [prompt], config)
        return prompt, drawn[0].text

    return sample


def _sample_prompt(session: Session) -> str:
    # The first words of a line of the holdout: text like the corpus, but never trained on.
    text = session.corpus.holdout_beginning(4000)
    lines = [line.strip() for line in text.splitlines()[1:] if line.strip()]
    limit = session.model.config.context_length // 2
    for line in [*lines, text.strip()]:
        words = line.split()
        prompt = " ".join(words[:4])[:40]
        if not prompt or session.tokenizer.unknown_characters(prompt):
            continue
        if len(session.tokenizer.encode(prompt)) <= limit:
            return prompt
    # One id of the train part is known to the tokenizer whatever the text.
    return session.tokenizer.decode(session.corpus.train_ids[:1])


def _run_start(session: Session) -> RunStart:
    train = session.config.train
    return RunStart(
        run=session.run.path,
        config=session.config,
        reasons=session.reasons,
        n_parameters=session.config.model.n_parameters,
        n_train_tokens=len(session.corpus.train_ids),
        n_holdout_tokens=len(session.corpus.holdout_ids),
        device=session.compute.description,
        dtype=session.compute.dtype_name,
        attention=attention_in_use(train, session.compute, session.config.model),
        first_step=session.state.step,
    )


@contextlib.contextmanager
def _observers(session: Session, given: Sequence[TrainingObserver]) -> Iterator[Observers]:
    # Those that were given, the loggers of the run, and those that see every run.
    with contextlib.ExitStack() as stack:
        made: list[TrainingObserver] = []
        for name in ("metrics", *session.loggers):
            made.append(LOGGERS.get(name)(session.run.path, session.state.step))
            stack.callback(made[-1].close)
        for name in OBSERVERS.names():
            made.append(OBSERVERS.get(name)())
            stack.callback(made[-1].close)
        yield Observers([*given, *made])
