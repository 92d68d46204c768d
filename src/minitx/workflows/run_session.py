"""Run a session of training: wire its parts together, and train to the last step."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

from minitx.checkpoint.writer import CheckpointWriter
from minitx.compute import keep_freed_memory
from minitx.diagnosis.live import LiveDiagnosis
from minitx.evaluation.scoring import count_targets, windows_for
from minitx.training.batches import PrefetchedBatches
from minitx.training.hooks import RunHooks
from minitx.training.logging import LOGGERS
from minitx.training.loop import Trainer
from minitx.training.observer import OBSERVERS, Observers, RunEnd, TrainingObserver
from minitx.training.optimizers import make_optimizer
from minitx.training.signals import StopRequest
from minitx.workflows.session import Session
from minitx.workflows.session_checkpoint import (
    SessionSaver,
    restore_detector,
    restore_optimizer,
)
from minitx.workflows.session_evaluation import holdout_scorer, sampler, short_prompt


def run_session(
    session: Session, observers: Sequence[TrainingObserver], stop: StopRequest
) -> RunEnd:
    """Train to the last step; whatever happens, what was saved before stays whole.

    Raises:
        InstabilityError, InterruptedRunError, BadInputError: see `Trainer.run`.
    """
    keep_freed_memory()
    config, compute, model = session.config.train, session.compute, session.model
    optimizer = make_optimizer(model, config, compute.dtype)
    restore_optimizer(session, optimizer)
    for name in session.loggers:
        LOGGERS.get(name)
    with contextlib.ExitStack() as stack:
        writer = CheckpointWriter(session.run, config.keep_checkpoints)
        stack.push(_finish(writer))
        prefetched = PrefetchedBatches(
            session.corpus.train_ids, model.config.context_length, config.batch_size, config.seed,
            compute.device, config.data_order,
        )  # fmt: skip
        batches = stack.enter_context(prefetched)
        corpus = session.corpus
        told = _observers(session, observers, stack)
        observer = Observers(told)
        detector = LiveDiagnosis(
            model, config, compute, batches, corpus.train_ids, corpus.holdout_ids, observer
        )
        good_states = restore_detector(session, optimizer, detector)
        # This cuts the file, so it is the last that may refuse.
        told.insert(len(observers), _logger("metrics", session, stack))
        session = session.committed()
        trainer = Trainer(
            model=model,
            optimizer=optimizer,
            batches=batches,
            config=config,
            compute=compute,
            state=session.state,
            observer=observer,
            hooks=_hooks(
                session, SessionSaver(session, optimizer, detector, good_states, writer), stop
            ),
            stop=stop,
            detector=detector,
            good_states=good_states,
        )
        observer.observe(session.start(short_prompt(session)))
        stop.defer()
        return trainer.run()


def _finish(writer: CheckpointWriter) -> Callable[..., None]:
    def finish(kind: type[BaseException] | None, *_: object) -> None:
        # A second Ctrl-C waits for nothing: the checkpoint under way is then no checkpoint.
        if kind is None or not issubclass(kind, KeyboardInterrupt):
            writer.wait()

    return finish


def _observers(
    session: Session, given: Sequence[TrainingObserver], stack: contextlib.ExitStack
) -> list[TrainingObserver]:
    # Those that were given, loggers that were asked for, and those that see every run.
    observers = [*given, *(_logger(name, session, stack) for name in session.loggers)]
    for name in OBSERVERS.names():
        observers.append(OBSERVERS.get(name)())
        stack.callback(observers[-1].close)
    return observers


def _logger(name: str, session: Session, stack: contextlib.ExitStack) -> TrainingObserver:
    logger = LOGGERS.get(name)(session.run.path, session.state.step)
    stack.callback(logger.close)
    return logger


def _hooks(session: Session, saver: SessionSaver, stop: StopRequest) -> RunHooks:
    config, n_holdout = session.config.train, len(session.corpus.holdout_ids)

    def scored(max_tokens: int) -> int:
        return count_targets(n_holdout, windows_for(session.model, max_tokens=max_tokens))

    return RunHooks(
        run=session.run.path,
        evaluate=holdout_scorer(session, stop),
        sample=sampler(session),
        save=saver.save,
        saved=saver.writer.written,
        save_config=saver.save_config,
        n_holdout=n_holdout if n_holdout > 1 else 0,
        n_scored=scored(config.evaluation_tokens),
        n_closing=scored(config.closing_tokens),
    )
