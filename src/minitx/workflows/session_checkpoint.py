"""What a checkpoint of a run holds beside the model, and how a session takes it up again."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from minitx.checkpoint.huggingface import model_files
from minitx.checkpoint.rundir import CONFIG_COPY
from minitx.checkpoint.weights import model_tensors
from minitx.checkpoint.writer import CheckpointWriter, Snapshot
from minitx.config import TrainConfig
from minitx.config.toml import config_bytes
from minitx.corpus.encoded import DESCRIPTION
from minitx.errors import DamagedFileError
from minitx.files import describe_damage, json_bytes
from minitx.training.anomalies import AnomalyDetector
from minitx.training.good_states import GoodStates
from minitx.training.optimizers.optimizer_base import Optimizer
from minitx.training.state import TrainingState
from minitx.workflows.session import Session

STATE_FILE = "training_state.json"
OPTIMIZER_FILE = "optimizer.safetensors"
DIAGNOSIS_FILE = "diagnosis.json"
GOOD_STATES_FILE = "good_states.safetensors"
MADE_WITH_FILE = "made_with.json"


def restore_optimizer(session: Session, optimizer: Optimizer) -> None:
    """Give a new optimizer the state that was saved, if there is one.

    Raises:
        DamagedFileError: it is of another model.
    """
    if session.optimizer_tensors is None:
        return
    try:
        optimizer.load_state_tensors(session.optimizer_tensors)
    except (KeyError, RuntimeError) as error:
        reason = describe_damage(error).splitlines()[0]
        raise DamagedFileError(
            f"{OPTIMIZER_FILE} of step {session.state.step:,} does not fit the model: {reason}",
            "Use another checkpoint of the run, or train again",
        ) from None


def restore_detector(session: Session, detector: AnomalyDetector) -> None:
    """Give a new detector what it remembered.

    Raises:
        DamagedFileError: it is not what a detector remembers.
    """
    # A run that is lengthened warms up anew: its losses are not compared with those before.
    is_lengthened = session.state.step > 0 and session.state.rewarm_step == session.state.step
    if not session.diagnosis or is_lengthened:
        return
    try:
        detector.restore(session.diagnosis["watch"])
    except (ValueError, LookupError, TypeError) as error:
        raise DamagedFileError(
            f"{DIAGNOSIS_FILE} can't be used: {error}", "Use another checkpoint of the run"
        ) from None


def restored_good_states(
    session: Session, optimizer: Optimizer, detector: AnomalyDetector
) -> GoodStates | None:
    """The states that a rollback may return to; None if the policy is another."""
    if session.config.train.on_spike != "rollback":
        return None
    good_states = GoodStates(session.model, optimizer, detector)
    saved = session.diagnosis.get("good_states", [])
    good_states.load(saved, session.good_state_tensors, session.state.step)
    return good_states


@dataclass(eq=False)
class SessionSaver:
    """Saves a session as it stands; `writer` writes while training goes on."""

    session: Session
    optimizer: Optimizer
    detector: AnomalyDetector
    good_states: GoodStates | None
    writer: CheckpointWriter

    def __post_init__(self) -> None:
        self._unchanging = {
            DESCRIPTION: (self.session.corpus.directory / DESCRIPTION).read_bytes(),
            MADE_WITH_FILE: json_bytes(self.session.made_with()),
        }

    def save(self, state: TrainingState, train: TrainConfig) -> None:
        """Hand a checkpoint to the writer."""
        session, good_states = self.session, self.good_states
        diagnosis: dict[str, Any] = {"watch": self.detector.state()}
        # Copies, since the next step changes the originals while these are being written.
        tensors = {
            "model.safetensors": _copies(model_tensors(session.model)),
            OPTIMIZER_FILE: _copies(self.optimizer.state_tensors()),
        }
        if good_states is not None:
            diagnosis["good_states"] = good_states.description()
            # Nothing changes these any more, so they need no copies.
            if kept := good_states.tensors(state.step):
                tensors[GOOD_STATES_FILE] = kept
        files = {
            **model_files(session.model, session.tokenizer),
            STATE_FILE: state.to_json(),
            CONFIG_COPY: config_bytes(replace(session.config, train=train)),
            DIAGNOSIS_FILE: (json.dumps(diagnosis) + "\n").encode(),
            **self._unchanging,
        }
        self.writer.submit(Snapshot(state.step, state.best_step or None, files, tensors))
        # The first one, so that a run is never without; the last, so that it is told as saved.
        if state.step == 0 or state.step >= state.steps:
            self.writer.wait()

    def save_config(self, train: TrainConfig) -> None:
        """Write `run.toml` anew."""
        self.session.run.write_config(replace(self.session.config, train=train))


def _copies(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()
    }
