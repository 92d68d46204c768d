"""Follow the first of several processes: compute gradients with it, and save nothing.

The first process plans and opens a session as if it were alone, and then invites the others. They
open the same run, which lies where all see it.
"""

from __future__ import annotations

import math
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import torch

from minitx.checkpoint import load_model
from minitx.checkpoint.own_code import OwnCode
from minitx.checkpoint.own_model import new_model
from minitx.checkpoint.rundir import RunDirectory
from minitx.compute import choose_compute
from minitx.config import RunConfig
from minitx.corpus import load_encoded
from minitx.engine import choose_engine
from minitx.errors import BadInputError, MinitxError
from minitx.tokenizer import load_tokenizer
from minitx.training.hooks import AnomalyDetector, HoldoutLoss, RunHooks
from minitx.training.loop import Trainer
from minitx.training.observer import Observers
from minitx.training.optimizers import make_optimizer
from minitx.training.signals import StopRequest
from minitx.training.state import TrainingState
from minitx.training.team import Team
from minitx.workflows.session import Session, restore_detector, restore_optimizer


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
        optimizer = make_optimizer(session.model, session.config.train, session.compute.dtype)
        restore_optimizer(session, optimizer)
        detector = AnomalyDetector()
        good_states = restore_detector(session, optimizer, detector)
    except (MinitxError, OSError) as error:
        problem = f"on {socket.gethostname()}, {error}"
    team.require_agreement(problem)
    assert session is not None
    optimizer.team = team
    team.began(session.run.path)
    with session.batches(team) as batches:
        stop.defer()
        Trainer(
            model=session.model,
            optimizer=optimizer,
            batches=batches,
            config=session.config.train,
            compute=session.compute,
            state=session.state,
            observer=Observers([]),
            hooks=_hooks(session),
            stop=stop,
            detector=detector,
            good_states=good_states,
            team=team,
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
    if invitation.checkpoint is None:
        torch.manual_seed(config.train.seed)
        model = new_model(config.model, invitation.code).to(compute.device)
    else:
        model = load_model(invitation.checkpoint, device=compute.device).model
    return Session(
        run=RunDirectory(invitation.run),
        config=config,
        reasons={},
        corpus=corpus,
        tokenizer=load_tokenizer(invitation.data),
        model=model,
        compute=compute,
        engine=choose_engine(model, compute, config.train.engine, config.train.recompute),
        state=invitation.state,
        checkpoint=invitation.checkpoint,
    )


def _hooks(session: Session) -> RunHooks:
    n_ids = len(session.corpus.holdout_ids)
    return RunHooks(
        run=session.run.path,
        evaluate=lambda closing: HoldoutLoss(math.nan, math.nan, 0),
        sample=lambda: ("", ""),
        save=lambda state, config: None,
        saved=list,
        save_config=lambda config: None,
        n_holdout=n_ids if n_ids > 1 else 0,
        n_scored=0,
        n_closing=0,
    )
