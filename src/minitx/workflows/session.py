"""A session of training: all that the steps from where a run stands to its end need, and what a
checkpoint holds of it beside the model.
"""

from __future__ import annotations

import contextlib
import json
import logging
import platform
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from minitx import __version__
from minitx.checkpoint.adapter import ADAPTER_FILE, adapter_tensors, write_adapter
from minitx.checkpoint.huggingface import model_files
from minitx.checkpoint.manifest import CARD
from minitx.checkpoint.rundir import CONFIG_COPY, RunDirectory
from minitx.checkpoint.weights import model_tensors, require_sound_header
from minitx.checkpoint.writer import CheckpointWriter, Snapshot
from minitx.compute import Compute, EngineChoice
from minitx.config import RunConfig, TrainConfig
from minitx.config.toml import config_bytes
from minitx.corpus import EncodedCorpus
from minitx.corpus.answer_targets import answers_in
from minitx.corpus.encoded import DESCRIPTION
from minitx.corpus.shards import IdArray
from minitx.engine import kernel_build
from minitx.errors import DamagedFileError
from minitx.evaluation.arrays import token_sizes
from minitx.files import describe_damage, json_bytes, read_json
from minitx.model import Transformer
from minitx.tokenizer import Tokenizer
from minitx.training.batches import PrefetchedBatches
from minitx.training.good_states import GoodStates
from minitx.training.gradients import number_after
from minitx.training.hooks import AnomalyDetector
from minitx.training.observer import RunStart
from minitx.training.optimizers import make_optimizer
from minitx.training.optimizers.optimizer_base import Optimizer
from minitx.training.sharding import Shards
from minitx.training.state import TrainingState
from minitx.training.team import Team
from minitx.workflows.model_card import model_card

STATE_FILE = "training_state.json"
OPTIMIZER_FILE = "optimizer.safetensors"
DIAGNOSIS_FILE = "diagnosis.json"
GOOD_STATES_FILE = "good_states.safetensors"
MADE_WITH_FILE = "made_with.json"
OLD_HOLDOUT_FILE = "old_holdout.npy"
"""In a run that began with another: ids of what that one held out."""

_DECIDE_NUMBERS = (
    "torch", "numpy", "system", "device", "engine", "kernel_family", "kernel_version",
)  # fmt: skip
"""Keys of `made_with.json` that the last digits of a run depend on."""

_log = logging.getLogger("minitx")

USE_ANOTHER = "Use another checkpoint of the run"


@dataclass(frozen=True)
class Session:
    """Everything that a session of training needs; its run is locked by the caller.

    Attributes:
        reasons: for each key that the plan chose.
        loggers: names of those that note the run beside `metrics.jsonl`.
        checkpoint: that it goes on from; None for a new run.
    """

    run: RunDirectory
    config: RunConfig
    reasons: dict[str, str]
    corpus: EncodedCorpus
    tokenizer: Tokenizer
    model: Transformer
    compute: Compute
    engine: EngineChoice
    state: TrainingState
    loggers: tuple[str, ...] = ()
    checkpoint: Path | None = None

    def committed(self) -> Session:
        """The session after the run's files were changed as it needs them.

        Called when nothing can be refused any more: a refusal leaves every file as it was.
        """
        # First, since a full disk may still refuse it: nothing is lost by then.
        self.run.write_config(self.config)
        self.run.drop_after(self.state.step)
        if self.corpus.directory == self.run.new_data:
            self.run.adopt_new_data()
        return replace(self, corpus=replace(self.corpus, directory=self.run.data))

    def batches(self, team: Team) -> PrefetchedBatches:
        """What this process of a team learns from, prepared ahead; to be used as a context."""
        train = self.config.train
        return PrefetchedBatches(
            self.corpus.train_ids, self.config.model.context_length, train.batch_size, train.seed,
            self.compute.device, train.data_order,
            answers_in(self.corpus.train_ids, self.tokenizer),
            after=partial(number_after, config=train, team=team),
        )  # fmt: skip

    def old_holdout(self) -> IdArray | None:
        """Ids `(tokens,)` of what the run held out that this one began with; None without one."""
        path = self.run.path / OLD_HOLDOUT_FILE
        if not path.is_file():
            return None
        with _damage_told(path):
            ids: IdArray = np.load(path, allow_pickle=False)
            return ids

    def start(self, prompt: str) -> RunStart:
        """What observers are told before the first step; `prompt` is one to try afterwards."""
        return RunStart(
            run=self.run.path,
            config=self.config,
            reasons={**self.reasons, "engine": self.engine.reason},
            n_parameters=self.config.model.n_parameters,
            n_train_tokens=len(self.corpus.train_ids),
            n_holdout_tokens=len(self.corpus.holdout_ids),
            device=self.compute.description,
            dtype=self.compute.dtype_name,
            engine=self.engine.engine,
            first_step=self.state.step,
            n_unknown_tokens=self.corpus.holdout.unknown,
            prompt=prompt,
            chats=self.has_chats,
        )

    @cached_property
    def has_chats(self) -> bool:
        """Whether it learns the answers of conversations."""
        return answers_in(self.corpus.train_ids, self.tokenizer) is not None

    @cached_property
    def holdout_bytes_per_token(self) -> float:
        """Of the tokens that are scored: of conversations the answers, else all but the first."""
        ids = self.corpus.holdout_ids
        answers = answers_in(ids, self.tokenizer)
        if answers is not None:
            sizes = token_sizes(self.tokenizer)
            is_answer = answers.at(np.arange(len(ids)))
            return float(sizes[ids[is_answer]].mean()) or 1.0
        unscored = sum(len(self.tokenizer.token_bytes(int(i))) for i in ids[:1])
        return max(1, self.corpus.holdout.bytes - unscored) / max(1, len(ids) - 1)

    def made_with(self) -> dict[str, str]:
        """What a run's numbers depend on beside its settings (docs/reproducible.md)."""
        family, version = kernel_build()
        return {
            "minitx": __version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
            "system": f"{platform.system()} {platform.machine()}",
            "device": self.compute.description,
            "threads": str(torch.get_num_threads()),
            "dtype": self.compute.dtype_name,
            "engine": self.engine.engine,
            "kernels": self.engine.reason,
            "kernel_family": family,
            "kernel_version": version,
        }


def read_state(checkpoint: Path) -> TrainingState:
    """Where the run stood at a checkpoint, or a DamagedFileError."""
    path = checkpoint / STATE_FILE
    with _damage_told(path):
        return TrainingState.from_json(read_json(path))


def tell_other_numbers(session: Session, fixed: Collection[str]) -> None:
    """Say in one line where the numbers of a resumed run will differ from those before, and why.

    What a checkpoint of another version did not note is passed over, and the text of what a person
    `fixed`, who knows it.
    """
    noted: dict[str, Any] = {}
    if session.checkpoint is not None and (path := session.checkpoint / MADE_WITH_FILE).exists():
        with _damage_told(path):
            noted = read_json(path)
    changes = [
        f"{key.replace('_', ' ')} {value}, not {noted[key]}"
        for key, value in session.made_with().items()
        if key in _DECIDE_NUMBERS and key not in fixed and noted.get(key, value) != value
    ]
    if changes:
        what = "; ".join(changes)
        _log.warning("warning: losses will differ in their last digits from here on: %s", what)


def made_on(train: TrainConfig, compute: Compute) -> torch.device:
    """Where a model is made before it is trained."""
    return torch.device("cpu") if train.shard else compute.device


def share_out(session: Session, team: Team) -> tuple[Session, Shards | None]:
    """The session whose model is shared out over a team if it is to be, and then how.

    Its model is then the one that is whole where all processes gather it.
    """
    if not session.config.train.shard:
        return session, None
    shards = Shards(session.model, session.compute, team)
    return replace(session, model=shards.whole), shards


def restored_optimizer(session: Session, team: Team, shards: Shards | None) -> Optimizer:
    """A new optimizer, with the state that was saved, if there is one.

    Raises:
        DamagedFileError: that is of another model.
    """
    model = session.model if shards is None else shards.rows
    optimizer = make_optimizer(model, session.config.train, session.compute.dtype)
    optimizer.team, optimizer.has_rows = team, shards is not None
    if session.checkpoint is None:
        return optimizer
    try:
        optimizer.load_state_tensors(_load_tensors(session.checkpoint / OPTIMIZER_FILE, shards))
    except (KeyError, RuntimeError) as error:
        reason = describe_damage(error).splitlines()[0]
        raise DamagedFileError(
            f"{OPTIMIZER_FILE} of step {session.state.step:,} does not fit the model: {reason}",
            f"{USE_ANOTHER}, or train again",
        ) from None
    return optimizer


def restore_detector(
    session: Session,
    optimizer: Optimizer,
    detector: AnomalyDetector,
    shards: Shards | None = None,
) -> GoodStates | None:
    """Give a new detector what it remembered, and return the states that a rollback may return to.

    They are None if the policy is another.

    Raises:
        DamagedFileError: it is not what a detector remembers.
    """
    state, checkpoint = session.state, session.checkpoint
    diagnosis: dict[str, Any] = {}
    # Its manifest would name it as missing if it had been there.
    if checkpoint is not None and (path := checkpoint / DIAGNOSIS_FILE).exists():
        with _damage_told(path):
            diagnosis = read_json(path)
            # A run that is lengthened warms up anew: its losses are not compared with those before.
            if not state.rewarm_step == state.step > 0:
                detector.restore(diagnosis["watch"])
    if session.config.train.on_spike != "rollback":
        return None
    tensors: dict[str, Tensor] = {}
    if checkpoint is not None and (path := checkpoint / GOOD_STATES_FILE).exists():
        tensors = _load_tensors(path, shards)
    model = session.model if shards is None else shards.rows
    good_states = GoodStates(model, optimizer, detector)
    good_states.load(diagnosis.get("good_states", []), tensors, state.step)
    return good_states


def _load_tensors(path: Path, shards: Shards | None) -> dict[str, Tensor]:
    require_sound_header(path)
    try:
        if shards is None:
            return load_file(path)
        with safe_open(path, framework="pt") as file:
            names = [*file.keys()]
            return {name: _rows(file, name, shards.own_rows(name)) for name in names}
    except (SafetensorError, OSError) as error:
        raise DamagedFileError(f"{path} can't be read: {error}", USE_ANOTHER) from None


def _rows(file: Any, name: str, own: slice | None) -> Tensor:
    lazy = file.get_slice(name)
    if own is None or not lazy.get_shape():
        tensor: Tensor = file.get_tensor(name)
    elif own.start < own.stop:
        tensor = lazy[own]
    else:  # A process that gets no row; safetensors refuses an empty slice.
        tensor = lazy[:1][:0]
    return tensor


@contextlib.contextmanager
def _damage_told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DamagedFileError(f"{path} can't be read ({error.strerror})", USE_ANOTHER) from None
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise DamagedFileError(f"{path} can't be used: {error}", USE_ANOTHER) from None


@dataclass(eq=False)
class SessionSaver:
    """Saves a session as it stands; `writer` writes while training goes on."""

    session: Session
    optimizer: Optimizer
    detector: AnomalyDetector
    good_states: GoodStates | None
    writer: CheckpointWriter
    shards: Shards | None = None

    def __post_init__(self) -> None:
        self._made_with = self.session.made_with()
        self._unchanging = {
            DESCRIPTION: (self.session.corpus.directory / DESCRIPTION).read_bytes(),
            MADE_WITH_FILE: json_bytes(self._made_with),
        }

    def save(self, state: TrainingState, train: TrainConfig) -> None:
        """Hand a checkpoint to the writer."""
        session, good_states = self.session, self.good_states
        diagnosis: dict[str, Any] = {"watch": self.detector.state()}
        if good_states is not None:
            diagnosis["good_states"] = good_states.description()
        tensors = saved_tensors(session, self.optimizer, good_states, state.step, self.shards)
        files = {
            **model_files(session.model, session.tokenizer),
            STATE_FILE: state.to_json(),
            CONFIG_COPY: config_bytes(replace(session.config, train=train)),
            CARD: model_card(
                session.run.path.name,
                replace(session.config, train=train),
                session.corpus,
                session.holdout_bytes_per_token,
                state,
                self._made_with,
                session.has_chats,
            ),
            DIAGNOSIS_FILE: (json.dumps(diagnosis) + "\n").encode(),
            **self._unchanging,
        }
        if train.lora:
            base = str(train.start)
            write_adapter(session.run.path / "adapter", session.model, train.lora, base)
        self.writer.submit(Snapshot(state.step, state.best_step or None, files, tensors))
        # The first one, so that a run is never without; the last, so that it is told as saved.
        if state.step == 0 or state.step >= state.steps:
            self.writer.wait()

    def save_config(self, train: TrainConfig) -> None:
        """Write `run.toml` anew."""
        self.session.run.write_config(replace(self.session.config, train=train))


def saved_tensors(
    session: Session,
    optimizer: Optimizer,
    good_states: GoodStates | None,
    step: int,
    shards: Shards | None = None,
) -> dict[str, dict[str, Tensor]]:
    """What a checkpoint holds, by file and name; nothing that follows changes it.

    With `shards`, all processes call this, and the first one gets the tensors.
    """
    moments = optimizer.state_tensors()
    kept = {} if good_states is None else good_states.tensors(step)
    if shards is None:
        # Copies, since the next step changes the originals while these are being written. Nothing
        # changes good states any more.
        weights, moments = _copies(model_tensors(session.model)), _copies(moments)
    else:
        with shards.gathered(torch.device("cpu")) as is_here:
            weights = _copies(model_tensors(session.model)) if is_here else {}
        moments, kept = shards.gather(moments), shards.gather(kept)
    tensors = {"model.safetensors": weights, OPTIMIZER_FILE: moments}
    if session.config.train.lora:
        tensors[ADAPTER_FILE] = _copies(adapter_tensors(session.model))
    return {**tensors, **({GOOD_STATES_FILE: kept} if kept else {})}


def _copies(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()
    }
