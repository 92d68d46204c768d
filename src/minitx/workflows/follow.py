"""Follow the first of several processes: compute gradients with it, and save nothing.

The first process plans and opens a session as if it were alone, and then invites the others. They
open the same run, which lies where all see it.
"""

from __future__ import annotations

import contextlib
import math
import socket
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

import torch

from minitx.checkpoint import load_model
from minitx.checkpoint.own_code import OwnCode
from minitx.checkpoint.rundir import RunDirectory
from minitx.compute import choose_compute
from minitx.config import RunConfig, TrainConfig
from minitx.corpus import load_encoded
from minitx.diagnosis.live import PartOfHealth, UpdateMeter
from minitx.engine import choose_engine
from minitx.errors import BadInputError, MinitxError
from minitx.tokenizer import load_tokenizer
from minitx.training.good_states import GoodStates
from minitx.training.hooks import AnomalyDetector, HoldoutLoss, RunHooks
from minitx.training.loop import Trainer
from minitx.training.observer import Observers
from minitx.training.optimizers.optimizer_base import Optimizer
from minitx.training.sharding import Shards
from minitx.training.signals import StopRequest
from minitx.training.state import TrainingState
from minitx.training.team import Team
from minitx.workflows.session import (
    Session,
    made_on,
    restore_detector,
    restored_optimizer,
    saved_tensors,
    share_out,
)
from minitx.workflows.start import open_start, resumed_model, starting_model


@dataclass(frozen=True)
class Invitation:
    """What the others need to know of a session.

    Attributes:
        data: directory of the encoded corpus, and `digest` of its text.
        checkpoint: to go on from; None for a new run.
        code: of a model of one's own.
    """

    run: Path
    config: RunConfig
    data: Path
    digest: str
    checkpoint: Path | None
    state: TrainingState
    code: OwnCode | None


def invite(session: Session, team: Team) -> None:
    """Let the other processes open the session that the first one has opened."""
    team.wait_for_first()
    if team.size > 1:
        checkpoint = session.checkpoint and session.checkpoint.absolute()
        team.first(
            lambda: Invitation(
                session.run.path.absolute(), session.config,
                session.corpus.directory.absolute(), session.corpus.digest, checkpoint,
                session.state, getattr(session.model, "code", None),
            )
        )  # fmt: skip


def follow(team: Team, stop: StopRequest) -> NoReturn:
    """Compute with the first process until it ends.

    Raises:
        SystemExit: with the exit code of the run.
    """
    team.wait_for_first()
    invitation: Invitation = team.first(lambda: None)  # type: ignore[assignment]
    session, problem = None, None
    try:
        session = _opened(invitation)
        session, shards = share_out(session, team)
        optimizer = restored_optimizer(session, team, shards)
        detector = AnomalyDetector()
        if shards is not None:
            log_every = session.config.train.log_every
            detector = PartOfHealth(UpdateMeter(shards.rows, log_every, team))
        good_states = restore_detector(session, optimizer, detector, shards)
    except (MinitxError, OSError) as error:
        problem = f"on {socket.gethostname()}, {error}"
    team.require_agreement(problem)
    assert session is not None
    team.began(session.run.path)
    with session.batches(team) as batches:
        stop.defer()
        Trainer(
            model=session.model if shards is None else shards.trained,
            optimizer=optimizer,
            batches=batches,
            config=session.config.train,
            compute=session.compute,
            state=session.state,
            observer=Observers([]),
            hooks=_hooks(session, optimizer, good_states, shards),
            stop=stop,
            detector=detector,
            good_states=good_states,
            team=team,
            shards=shards,
        ).run()
    team.first(lambda: None)
    raise SystemExit(0)


def _opened(invitation: Invitation) -> Session:
    if not invitation.data.is_dir():
        raise BadInputError(
            f"the run {invitation.run} is not seen", "Use a file system that all machines share"
        )
    corpus = load_encoded(invitation.data)
    if corpus.digest != invitation.digest:
        raise BadInputError(f"{invitation.data} has another text", "Share one run directory")
    config = invitation.config
    compute = choose_compute(config.train.device, config.train.dtype, config.train.threads)
    device = made_on(config.train, compute)
    if invitation.checkpoint is None:
        torch.manual_seed(config.train.seed)
        start = open_start(vars(config.train))
        model = starting_model(config, invitation.code, start).to(device)
    else:
        loaded = load_model(invitation.checkpoint).model
        model = resumed_model(config, loaded, invitation.checkpoint).train().to(device)
    return Session(
        run=RunDirectory(invitation.run),
        config=config,
        reasons={},
        corpus=corpus,
        tokenizer=load_tokenizer(invitation.data),
        model=model,
        compute=compute,
        engine=choose_engine(
            model, compute, config.train.engine, config.train.recompute, config.train.shard
        ),
        state=invitation.state,
        checkpoint=invitation.checkpoint,
    )


def _hooks(
    session: Session, optimizer: Optimizer, good_states: GoodStates | None, shards: Shards | None
) -> RunHooks:
    n_ids = len(session.corpus.holdout_ids)

    def save(state: TrainingState, config: TrainConfig) -> None:
        if shards is not None:
            saved_tensors(session, optimizer, good_states, state.step, shards)

    def save_config(config: TrainConfig) -> None:
        # What the first process notes, too, unless it waits in a pass for this one.
        if shards is not None:
            session.run.write_config(replace(session.config, train=config))

    return RunHooks(
        run=session.run.path,
        evaluate=lambda closing: HoldoutLoss(math.nan, math.nan, 0),
        sample=lambda: ("", ""),
        save=save,
        saved=list,
        save_config=save_config,
        n_holdout=n_ids if n_ids > 1 else 0,
        n_scored=0,
        n_closing=0,
        looking=contextlib.nullcontext if shards is None else shards.gathered,
    )
