"""Continue a run from its last checkpoint: what `minitx resume` does, as a library call."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from minitx.checkpoint import load_model
from minitx.checkpoint.rundir import CONFIG_COPY, MODEL_FILES, RunDirectory, named_run
from minitx.compute import choose_compute
from minitx.config import RunConfig, TrainConfig
from minitx.config.overrides import Overrides
from minitx.config.toml import build
from minitx.config.train_config import RESUMABLE
from minitx.corpus import (
    EncodedCorpus,
    SplitCorpus,
    encode_corpus,
    load_encoded,
    read_corpus,
    split_corpus,
)
from minitx.corpus.documents import Reading
from minitx.corpus.earlier import noted_split
from minitx.corpus.encoded import DESCRIPTION, describe_change, kept_split, read_description
from minitx.engine import choose_engine
from minitx.errors import BadInputError, DamagedFileError
from minitx.files import shell_word
from minitx.tokenizer import Tokenizer
from minitx.training.logging import required_loggers
from minitx.training.logging.metrics_file import read_metrics, require_metrics
from minitx.training.observer import Observers, Phase, TrainingObserver
from minitx.training.sharding import require_shardable
from minitx.training.signals import StopRequest, interrupted_before_steps
from minitx.training.state import TrainingState
from minitx.training.team import joined_team
from minitx.workflows.follow import follow
from minitx.workflows.prepare import require_holdout
from minitx.workflows.run_session import run_session
from minitx.workflows.session import (
    OPTIMIZER_FILE,
    STATE_FILE,
    USE_ANOTHER,
    Session,
    made_on,
    read_state,
    tell_other_numbers,
)
from minitx.workflows.start import resumed_model
from minitx.workflows.train import FinishedRun, audited

RESUME_FILES = (*MODEL_FILES, STATE_FILE, OPTIMIZER_FILE, CONFIG_COPY, DESCRIPTION)
"""What a checkpoint needs to be gone on from."""

_log = logging.getLogger("minitx")


@dataclass(frozen=True)
class ResumeRequest:
    """What to continue, and what to change.

    Attributes:
        run: a run directory, or its last checkpoint; None for the newest run.
        train: keys of `TrainConfig` to change, of those in `RESUMABLE`.
        allow_changed_corpus: go on although the text is not what it was.
        loggers: as in `TrainRequest`.
    """

    run: Path | None = None
    train: Overrides = field(default_factory=dict)
    allow_changed_corpus: bool = False
    loggers: tuple[str, ...] = ()


def resume(request: ResumeRequest, observers: Sequence[TrainingObserver]) -> FinishedRun:
    """Continue a run to its last step, or to a new one.

    Unless something is changed, the run ends with the very numbers of one that was never stopped.

    Raises:
        BadInputError: there is no such run, nothing is left to do, or its corpus changed.
        DamagedFileError: no checkpoint is whole.
        RunLockedError: another process trains it.
        InstabilityError, InterruptedRunError, KeyboardInterrupt: as in `train`.
    """
    told = Observers(observers)
    device, asked = request.train.get("device", "auto"), {**request.train, "run": request.run}
    unchanged = "The run is as it was; give the same command again"
    with (
        StopRequest() as stop,
        interrupted_before_steps(stop, unchanged),
        joined_team(device, asked) as team,
    ):
        if not team.is_first:
            follow(team, stop)
        required_loggers(request.loggers)
        run = RunDirectory.open(request.run)
        _refuse_older_checkpoint(run, request.run and named_run(request.run))
        fix = f"The run is as it was; go on with: minitx resume {shell_word(run.path)}"
        with interrupted_before_steps(stop, fix), run.lock():
            run.clear_leftovers()
            told.observe(Phase("reading the checkpoint"))
            try:
                session = _open_session(run, request, team.size)
                told.observe(Phase(""))
                end = run_session(session, observers, stop, team)
            finally:
                shutil.rmtree(run.new_data, ignore_errors=True)
    return FinishedRun(run.path, end)


def _open_session(run: RunDirectory, request: ResumeRequest, processes: int) -> Session:
    for path in (run.metrics_file, run.film_file):
        require_metrics(path)
    if run.config_file.is_dir():
        raise BadInputError(
            f"{run.config_file} is a directory",
            "Move it away: each checkpoint has a copy of the file that was there",
        )
    checkpoint = run.usable_checkpoint("last", required=RESUME_FILES)
    config = run.read_config()
    state = read_state(checkpoint)
    if checkpoint != run.checkpoint(state.step):
        raise DamagedFileError(f"{checkpoint / STATE_FILE} is of step {state.step:,}", USE_ANOTHER)
    config = _changed_config(run, config, state, request.train)
    if processes != config.train.processes:
        # Each process has a part of the machine.
        threads = request.train.get("threads", 0)
        config = replace(config, train=replace(config.train, processes=processes, threads=threads))
    require_shardable(vars(config.train), config.model.code_file is not None)
    compute = choose_compute(config.train.device, config.train.dtype, config.train.threads)
    loaded = load_model(checkpoint, device=made_on(config.train, compute))
    if loaded.model.config != config.model:
        raise DamagedFileError(
            f"{checkpoint} holds another model than {run.config_file} describes",
            "Restore run.toml, or resume from a copy of the run",
        )
    model = resumed_model(config, loaded.model, checkpoint).to(made_on(config.train, compute))
    corpus = _corpus(run, config, loaded.tokenizer, checkpoint, request.allow_changed_corpus)
    if "early_stopping" in request.train or corpus.directory == run.new_data:
        require_holdout(config.train.early_stopping, len(corpus.holdout_ids))
    if corpus.directory == run.new_data:
        data, _ = audited(config.data, noted_split(corpus.directory), Observers([]))
        config = replace(config, data=data)
    session = Session(
        run=run,
        config=config,
        reasons={},
        corpus=corpus,
        tokenizer=loaded.tokenizer,
        model=model,
        compute=compute,
        engine=choose_engine(
            model.train(), compute, config.train.engine, config.train.recompute, config.train.shard
        ),
        state=state,
        loggers=request.loggers,
        checkpoint=checkpoint,
    )
    # The text of a device has its threads. An engine that was asked for changes the numbers, too.
    fixed = {"device" if key == "threads" else key for key in request.train.keys() - {"engine"}}
    tell_other_numbers(session, fixed)
    return session


def _changed_config(
    run: RunDirectory, config: RunConfig, state: TrainingState, given: Overrides
) -> RunConfig:
    changes = dict(given)
    decisions = config.train.step_decisions
    if decisions and not state.steps_decided:
        # What the clock decided is kept, also after this checkpoint.
        state.steps = decisions[-1][1]
    unknown = sorted(set(changes) - set(RESUMABLE))
    if unknown:
        raise BadInputError(
            f"{unknown[0]} can't be changed in a run that has begun",
            f"Start a new run, or change one of {', '.join(RESUMABLE)}",
        )
    steps = changes.get("steps", state.steps)
    longer = "steps" in given and steps > state.step
    patience = changes.get("early_stopping", config.train.early_stopping)
    stopped_early = bool(patience) and state.evaluations_since_best >= patience
    ended = not longer and (steps <= state.step or stopped_early)
    # A run that was killed in its closing evaluation has that left to do.
    if ended and (steps < state.step or _has_end(run, state.step)):
        early = ", and stopped early" if stopped_early and steps > state.step else ""
        raise BadInputError(
            f"run {run.path} has done {state.step:,} of {steps:,} steps{early}",
            f"Lengthen it with --steps {2 * max(1, state.step)}, or use it with minitx generate",
        )
    if longer and (steps != state.steps or stopped_early):
        if state.step >= state.steps or stopped_early:
            state.rewarm_step = state.step
        if steps != state.steps:
            # No clock ends the run any more.
            changes["step_decisions"], changes["budget_seconds"] = (), None
        state.steps, state.steps_decided = steps, True
        state.evaluations_since_best = 0
    changes["steps"] = state.steps
    if given.keys() & {"recompute", "shard"}:
        changes = {"engine": "auto", **changes}
    if "device" in given:
        # The number format and the engine belong to the device.
        changes = {"dtype": "auto", "engine": "auto", **changes}
    return replace(config, train=build(TrainConfig, {**vars(config.train), **changes}, "resume"))


def _corpus(
    run: RunDirectory, config: RunConfig, tokenizer: Tokenizer, checkpoint: Path, changed_ok: bool
) -> EncodedCorpus:
    noted = read_description(checkpoint)
    if not tokenizer.has_digest(noted.tokenizer_digest):
        raise DamagedFileError(
            f"{checkpoint} was trained on a corpus encoded with another tokenizer", USE_ANOTHER
        )
    split = _present_split(run, config, noted.digest, changed_ok)
    if split is not None and split.digest != noted.digest:
        if not changed_ok:
            files = [Path(file).absolute() for file in split.files if Path(file).exists()]
            more = f" and {len(files) - 1:,} more" if len(files) > 1 else ""
            compared = f"; compared with {files[0]}{more}" if files else ""
            raise BadInputError(
                f"the corpus of {run.path} changed since training began: "
                f"{describe_change(SplitCorpus(run.data, ''), split)}{compared}",
                "Restore it, or go on with the new text: --allow-changed-corpus",
            )
        n_workers = config.data.workers or os.cpu_count() or 1
        changed = encode_corpus(split, tokenizer, [run.data], n_workers)
        n_ids, needed = len(changed.train_ids), config.model.context_length + 1
        if n_ids < needed:
            raise BadInputError(
                f"the train part has {n_ids:,} tokens, and one context needs {needed:,}",
                "Restore the corpus, or give a longer text",
            )
        return changed
    try:
        kept = load_encoded(run.data)
        if not tokenizer.has_digest(kept.tokenizer_digest) or kept.digest != noted.digest:
            other = "tokenizer" if kept.digest == noted.digest else "text"
            raise DamagedFileError(
                f"{run.data} was encoded with another {other} than the checkpoint was trained on",
                "Restore the data directory of the run",
            )
        return kept
    except DamagedFileError as error:
        # What the ids were made from may still be there, to the letter.
        split = split or kept_split(run.data, noted.digest, run.new_data)
        if split is None:
            raise
        _log.warning("warning: %s; encoding the corpus again", error.what)
        return encode_corpus(split, tokenizer)


def _present_split(
    run: RunDirectory, config: RunConfig, digest: str, changed_ok: bool
) -> SplitCorpus | None:
    """The text as it is now, beside the run's; of the ways to split it, the one with that digest,
    if it has it.

    None where the sources are no longer what can be read: then the copy in the run serves.
    """
    data = config.data
    if any(name == "-" or name.startswith(_STREAMS) for name in data.names):
        return None
    try:
        reading = Reading.of(data)
        corpus = read_corpus(data.corpus, None, data.working_directory, True, reading)
        if data.split is not None:
            return split_corpus(corpus, data, run.new_data)
        # Earlier versions, the first of which trained on a holdout that was in the corpus, too.
        data = replace(data, split="characters")
        split = split_corpus(corpus, data, run.new_data, leave_out=False)
        if split.digest == digest or data.holdout is None:
            return split
        return split_corpus(corpus, data, run.new_data)
    except BadInputError as error:
        if changed_ok:
            raise BadInputError(
                f"there is no changed text to go on with: {error.what}",
                "Restore it, or leave out --allow-changed-corpus to go on with the run's own copy",
            ) from None
        _log.warning("warning: %s; going on with the run's own copy of its text", error.what)
        return None


def _refuse_older_checkpoint(run: RunDirectory, named: Path | None) -> None:
    steps = run.steps()
    if named is None or named.absolute() == run.path.absolute() or not steps:
        return
    if named.name != run.checkpoint(steps[-1]).name:
        raise BadInputError(
            f"{named} is not the last checkpoint of {run.path}, and going on from it would "
            f"overwrite later ones",
            f"Name the run: minitx resume {shell_word(run.path)}",
        )


def _has_end(run: RunDirectory, step: int) -> bool:
    return any(
        record["kind"] == "end" and record["step"] == step and record.get("reason") != "interrupted"
        for record in read_metrics(run.metrics_file)
    )


_STREAMS = ("/dev/stdin", "/dev/fd/", "/proc/")
"""Names that stand for another text in another process."""
