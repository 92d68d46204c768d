"""Run a session of training: wire its parts together, and train to the last step."""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from minitx.checkpoint.writer import CheckpointWriter
from minitx.compute import keep_freed_memory
from minitx.config import SamplingConfig
from minitx.corpus.answer_targets import Answers, answers_in
from minitx.diagnosis.live import LiveDiagnosis, UpdateMeter
from minitx.evaluation.arrays import bits_per
from minitx.evaluation.scoring import Windows, count_targets, score, windows_for
from minitx.generation import generate
from minitx.generation.generate_text import sampling_threads
from minitx.inspection.film_recorder import FilmRecorder
from minitx.tokenizer.conversation import MARK, MARKS, without_marks
from minitx.training.awake import AwakeClock
from minitx.training.hooks import HoldoutLoss, RunHooks, StopEvaluation
from minitx.training.logging import LOGGERS, GuardedLogger, required_loggers
from minitx.training.logging.metrics_file import MetricsFile, read_metrics, repair_metrics
from minitx.training.loop import Trainer
from minitx.training.observer import OBSERVERS, Observers, RunEnd, TrainingObserver
from minitx.training.signals import StopRequest
from minitx.training.team import ALONE, Team
from minitx.workflows.follow import invite
from minitx.workflows.session import (
    Session,
    SessionSaver,
    restore_detector,
    restored_optimizer,
    share_out,
)

_SAMPLE_TOKENS = {"cpu": 160}
_SAMPLE_TOKENS_ELSEWHERE = 64
"""One token takes a GPU as long as a step of a small model does."""


def sample_tokens(device_type: str) -> int:
    """How many tokens each sample of a run has on such a device."""
    return _SAMPLE_TOKENS.get(device_type, _SAMPLE_TOKENS_ELSEWHERE)


Kept = TypeVar("Kept", bound=TrainingObserver)


def run_session(
    session: Session,
    observers: Sequence[TrainingObserver],
    stop: StopRequest,
    team: Team = ALONE,
) -> RunEnd:
    """Train to the last step; whatever happens, what was saved before stays whole.

    In a team this is what the first process does; the others are invited to `follow`.

    Raises:
        InstabilityError, InterruptedRunError, BadInputError: see `Trainer.run`.
    """
    keep_freed_memory()
    config, compute = session.config.train, session.compute
    invite(session, team)
    session, shards = share_out(session, team)
    optimizer = restored_optimizer(session, team, shards)
    with contextlib.ExitStack() as stack:

        def opened(observer: Kept) -> Kept:
            stack.callback(observer.close)
            return observer

        def finish(kind: type[BaseException] | None, *_: object) -> None:
            # A second Ctrl-C waits for nothing: the checkpoint under way is then no checkpoint.
            if kind is None or not issubclass(kind, KeyboardInterrupt):
                writer.wait()

        writer = CheckpointWriter(session.run, config.keep_checkpoints)
        stack.push(finish)
        corpus = session.corpus
        batches = stack.enter_context(session.batches(team))
        at = session.run.path, session.state.step
        loggers = required_loggers(session.loggers)
        told = [*observers, *(opened(GuardedLogger(name, *at)) for name in loggers)]
        told += [opened(OBSERVERS.get(name)()) for name in OBSERVERS.names()]
        observer = Observers(told)
        holdout = corpus.holdout_ids
        detector = LiveDiagnosis(
            session.model, config, compute, batches, corpus.train_ids, holdout,
            observer, None if shards is None else UpdateMeter(shards.rows, config.log_every, team),
            answers_in(holdout if len(holdout) > 1 else corpus.train_ids, session.tokenizer),
        )  # fmt: skip
        good_states = restore_detector(session, optimizer, detector, shards)
        team.require_agreement(None)
        # This cuts the file, so it is the last that may refuse.
        told.insert(len(observers), opened(LOGGERS.get("metrics")(*at)))
        film = None
        if config.film and shards is None:
            lines = opened(MetricsFile(session.run.film_file, session.state.step))
            film = _film(session, lines.write)
        elif session.run.film_file.exists() and team.is_first:
            repair_metrics(session.run.film_file, session.state.step)
        session = session.committed()
        saver = SessionSaver(session, optimizer, detector, good_states, writer, shards)
        hooks = replace(_hooks(session, saver, stop), look=detector.look)
        trainer = Trainer(
            model=session.model if shards is None else shards.trained,
            optimizer=optimizer,
            batches=batches,
            config=config,
            compute=compute,
            state=session.state,
            observer=observer,
            hooks=replace(hooks, record=film.record) if film is not None else hooks,
            stop=stop,
            detector=detector,
            good_states=good_states,
            now=stack.enter_context(AwakeClock()),
            team=team,
            shards=shards,
        )
        team.began(session.run.path)
        observer.observe(session.start(_short_prompt(session)))
        stop.defer()
        end = trainer.run()
        team.first(lambda: None)  # The others may go.
        return end


def _film(session: Session, write: Callable[[dict[str, Any]], None]) -> FilmRecorder:
    corpus, steps = session.corpus, [-1]
    steps += [record["step"] for record in read_metrics(session.run.film_file)]
    text = corpus.holdout_ids if len(corpus.holdout_ids) > 1 else corpus.train_ids
    train = session.config.train
    return FilmRecorder(session.model, session.tokenizer, text, train, write, max(steps))


def _hooks(session: Session, saver: SessionSaver, stop: StopRequest) -> RunHooks:
    config, model, tokenizer = session.config.train, session.model, session.tokenizer
    ids, old = session.corpus.holdout_ids, session.old_holdout()
    bytes_per_token = session.holdout_bytes_per_token
    prompt = _sample_prompt(session)
    sampling = SamplingConfig(
        temperature=0.8,
        top_k=min(40, model.config.vocab_size),
        max_new_tokens=sample_tokens(session.compute.device.type),
        seed=config.seed,
    )

    answers = answers_in(ids, tokenizer)
    old_answers = None if old is None else answers_in(old, tokenizer)

    def windows(closing: bool, answers: Answers | None = answers) -> Windows:
        n_tokens = config.closing_tokens if closing else config.evaluation_tokens
        return windows_for(
            model, max_tokens=n_tokens, autocast_dtype=session.compute.dtype, answers=answers
        )

    def evaluate(closing: bool) -> HoldoutLoss:
        def check_stop(_: int) -> None:
            if closing and stop.signal_number is not None:
                raise StopEvaluation

        scored = score(model, ids, windows(closing), check_stop)
        before = (
            None if old is None or closing else score(model, old, windows(False, old_answers)).loss
        )
        bits_per_byte = bits_per(scored.loss, bytes_per_token)
        return HoldoutLoss(scored.loss, bits_per_byte, scored.n_tokens, scored.margin, before)

    def sampled() -> str:
        with sampling_threads(model):
            return generate(model, tokenizer, [prompt], sampling)[0].text

    return RunHooks(
        looking=contextlib.nullcontext if saver.shards is None else saver.shards.gathered,
        run=session.run.path,
        evaluate=evaluate,
        sample=lambda: (without_marks(prompt), without_marks(sampled())),
        save=saver.save,
        saved=saver.writer.written,
        save_config=saver.save_config,
        n_holdout=len(ids) if len(ids) > 1 else 0,
        n_scored=count_targets(len(ids), windows(False)),
        n_closing=count_targets(len(ids), windows(True)),
    )


_QUESTION = re.compile("{user}[^{system}{user}{assistant}]*{assistant}".format(**MARKS))


def _short_prompt(session: Session) -> str:
    # One to type, of at most 24 printable characters that the tokenizer knows; empty if no token of
    # the vocabulary is such a text.
    tokenizer, words = session.tokenizer, MARK.sub(" ", _sample_prompt(session)).split()
    texts = (" ".join(words[:n]) for n in range(len(words), 0, -1))
    tokens = (tokenizer.decode([token]) for token in range(tokenizer.vocab_size))
    for text in itertools.chain(texts, tokens):
        is_typed = text.isprintable() and text == text.strip() and len(text) <= 24
        if text and is_typed and not tokenizer.unknown_characters(text):
            return text
    return ""


def _sample_prompt(session: Session) -> str:
    # What each sample of a run continues: the first words of a line of the holdout, which are text
    # like the corpus, but never trained on.
    tokenizer, corpus = session.tokenizer, session.corpus
    text = corpus.holdout_beginning(4000)
    limit = session.model.config.context_length // 2
    for question in _QUESTION.findall(text):
        if not tokenizer.unknown_characters(question) and len(tokenizer.encode(question)) <= limit:
            return str(question)
    lines = [line.strip() for line in text.splitlines()[1:] if line.strip()]
    for line in [*lines, text.strip()]:
        prompt = " ".join(line.split()[:4])[:40]
        is_known = prompt and not tokenizer.unknown_characters(prompt)
        if is_known and len(tokenizer.encode(prompt)) <= limit:
            return prompt
    # Whatever the text: one token that stands for itself, of the train part if it has one.
    tokens = (*corpus.train_ids[:1000].tolist(), *range(tokenizer.vocab_size))
    prompts = (tokenizer.decode([token]) for token in tokens if token != tokenizer.unknown_id)
    known = (prompt for prompt in prompts if prompt and not tokenizer.unknown_characters(prompt))
    return next(known, tokenizer.decode(corpus.train_ids[:1]))
