"""The training loop: gradient, update, and at times an evaluation and a checkpoint."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from signal import SIGINT, SIGTERM
from typing import NoReturn

import torch
from torch import Tensor

from minitx.compute import Compute
from minitx.config import TrainConfig
from minitx.errors import BadInputError, InstabilityError, InterruptedRunError
from minitx.files import shell_word
from minitx.model import Transformer
from minitx.training.batches import Batches
from minitx.training.budget import BudgetController
from minitx.training.clock import Clock
from minitx.training.good_states import GoodStates
from minitx.training.gradients import NoMemoryError, StepGradients
from minitx.training.hooks import Anomaly, AnomalyDetector, RunHooks, StopEvaluation
from minitx.training.loss_scale import LossScale
from minitx.training.observer import (
    CheckpointSaved,
    EvaluationReport,
    Event,
    Phase,
    RunEnd,
    StepReport,
    TrainingObserver,
)
from minitx.training.optimizers.optimizer_base import Optimizer
from minitx.training.run_ahead import RunAhead
from minitx.training.schedule import rate_of_run
from minitx.training.sharding import Shards
from minitx.training.signals import StopRequest
from minitx.training.state import TrainingState
from minitx.training.team import ALONE, Team

RATE_AFTER_ROLLBACK = 0.5
"""What the learning rate is multiplied by at each rollback."""


@dataclass(eq=False)
class Trainer:
    """Trains a model, in place, from where its state stands to its last step.

    Good states are there if the policy is `rollback`; `now` is a clock, in seconds. In a `team`,
    each process has a trainer; that of the first one decides, scores and saves. With `shards`, the
    model is their `trained`.
    """

    model: Transformer
    optimizer: Optimizer
    batches: Batches
    config: TrainConfig
    compute: Compute
    state: TrainingState
    observer: TrainingObserver
    hooks: RunHooks
    stop: StopRequest
    detector: AnomalyDetector
    good_states: GoodStates | None = None
    now: Callable[[], float] = time.perf_counter
    team: Team = ALONE
    shards: Shards | None = None

    def __post_init__(self) -> None:
        config, state, device = self.config, self.state, self.compute.device
        # Where reading a number costs nothing, or where it matters to which step it belongs.
        self._scale = LossScale(state) if self.compute.dtype == torch.float16 else None
        reads = config.on_spike != "warn" or self._scale is not None
        self._reads_each_step = device.type == "cpu" or reads
        self._gradients = StepGradients(
            self.model, self.batches, config, self.compute, self.team, self.shards
        )
        self._asked_to_stop = False
        self._ahead = RunAhead(device)
        self._unread: list[list[Tensor]] = []
        self._last = (math.nan, math.nan)
        self._clock = Clock(state.elapsed_seconds, self.now)
        sequences = config.batch_size * config.accumulation
        self._step_tokens = sequences * self.model.config.context_length
        self._budget = BudgetController(
            config, state, self._clock, self.hooks, self.observer, self._step_tokens
        )
        # Of a run that begins, nothing is saved yet.
        self._saved_step = state.step if state.step else -1

    def run(self) -> RunEnd:
        """Do all steps that are left, and the closing evaluation.

        A new run is saved before its first step, so that from there on it can be resumed.

        Raises:
            InstabilityError: the loss or the gradient norm is NaN or infinite, or the policy is
                to stop. Nothing of that is saved: the last checkpoint is from before.
            InterruptedRunError: a signal asked to stop; the run is saved.
            BadInputError: a file of the run can't be written.
        """
        state, config, patience = self.state, self.config, self.config.early_stopping
        self.model.train()
        if state.step == 0:
            self.hooks.record(0, state.steps)
            with self._clock.timing("saving"):
                self._save()
        if self.good_states is not None:
            self._collect_state()
            self.good_states.take(state.step)
        if compiling := config.engine == "torch-compile":
            self.observer.observe(Phase("compiling, with the first step"))
        while state.step < state.steps and not 0 < patience <= state.evaluations_since_best:
            learned = self._step()
            if compiling:
                self.observer.observe(Phase(""))
                compiling = False
            if learned and (state.step % config.log_every == 0 or state.step == 1):
                self._report_step()
            self._decide_steps()
            # Before a checkpoint of this step, which a resumed run goes on from with the next.
            if self.hooks.record(state.step, state.steps):
                self._clock.pause_done()
            if state.step % config.evaluate_every == 0 or state.step == state.steps:
                with self._clock.timing("evaluation"):
                    self._evaluate()
                self._clock.pause_done()
            if state.step % config.checkpoint_every == 0 or state.step == state.best_step:
                self._save()
            self._tell_saved()
            # After the evaluation, so that a resumed run goes on with the next step.
            if self._asked_to_stop if self.team.size > 1 else self.stop.signal_number is not None:
                self._interrupt()
        self.hooks.record(state.step, state.step)  # The last moment, if it ends early.
        self._save()
        return self._end("finished" if state.step >= state.steps else "early-stopping")

    def _step(self) -> bool:
        # False if the step was so bad that it was left out, or training went back instead.
        state, config = self.state, self.config
        factor = rate_of_run(config, state, state.step)
        try:
            loss = self._gradients(state.step, 1.0 if self._scale is None else state.loss_scale)
        except NoMemoryError:
            self._end_without_memory()
        if self._gradients.micro_batch_size != config.micro_batch_size:
            self._keep_micro_batch()
        of_team = [loss] if self.team.size == 1 else self._over_team(loss)
        if self._scale is not None:
            self._scale.divide([p.grad for p in self.optimizer.parameters if p.grad is not None])
        norm, norms = self.optimizer.clip_gradients()
        self._unread.append([norm, *of_team])
        state.step += 1
        state.tokens += self._step_tokens
        # Before the update, so that the weights are still those that gave the loss.
        learned = not self._reads_each_step or self._read_losses()
        if learned:
            self.detector.before_update(state.step, norms)
            self.optimizer.update(factor)
            self.detector.after_update(state.step)
        self._ahead.step_done()
        self._clock.step_done()
        return learned

    def _keep_micro_batch(self) -> None:
        # Also in a resumed run. A team has agreed on it.
        rows = self._gradients.micro_batch_size
        self._budget.config = replace(self._budget.config, micro_batch_size=rows)
        self.config = self._budget.config
        message = (
            f"memory ran out: from here on, of a pass of {self.config.batch_size:,} sequences at "
            f"most {rows:,} are computed at once; the batch stays the same"
        )
        fix = "Nothing: this is noted in run.toml (--micro-batch)"
        self.observer.observe(Event(self.state.step + 1, "out-of-memory", "warning", message, fix))
        self.hooks.save_config(self.config)

    def _end_without_memory(self) -> NoReturn:
        # The others wait for this process inside a pass, so it can't be done again.
        rows = self._gradients.micro_batch_size
        if self.team.is_first_to("halve"):
            self.hooks.save_config(replace(self.config, micro_batch_size=rows))
        where = f"process {self.team.rank} of {self.team.size}"
        what = f"memory ran out in {where}; run.toml now says --micro-batch {rows}"
        raise BadInputError(what, f"Go on with: minitx resume {shell_word(self.hooks.run)}")

    def _over_team(self, own_loss: Tensor) -> list[Tensor]:
        # The mean loss of the step, and by which signals how many processes were asked to stop.
        signals = [float(self.stop.exit_signal == number) for number in (SIGINT, SIGTERM)]
        told = torch.tensor([0.0, *signals], dtype=torch.float64, device=own_loss.device)
        told[0] = own_loss
        return list(self.team.add_up(told).to(own_loss.dtype))

    def _decide_steps(self) -> None:
        budget, state, team = self._budget, self.state, self.team
        if team.is_first:
            budget.after_step()
        if team.size > 1 and state.steps_decided is False:
            state.steps, decisions = team.first(lambda: (state.steps, budget.config.step_decisions))
            budget.config = replace(budget.config, step_decisions=decisions)
            if decisions:
                budget.config = replace(budget.config, steps=decisions[-1][1])
        self.config = budget.config

    def _read_losses(self) -> bool:
        # Reading waits for the device, so it may be done for several steps at once. False if there
        # must be no update.
        unread, self._unread = self._unread, []
        # Each look at a device's memory waits for it: one for all.
        rows = torch.stack([torch.stack(row) for row in unread]).tolist() if unread else []
        for step, (norm, loss, *asked) in enumerate(rows, self.state.step - len(unread) + 1):
            for number, count in zip((SIGINT, SIGTERM)[: len(asked)], asked, strict=True):
                if not count:
                    continue
                self._asked_to_stop = True
                self.stop.signal_number = self.stop.signal_number or int(number)
            self._last = loss, norm
            if self._scale is not None and self._scale.skips(loss, norm):
                self._skip(step)
                return False
            anomaly = self._anomaly(step, loss, norm)
            if anomaly is not None and (anomaly.is_fatal or self.config.on_spike != "warn"):
                self._roll_back(anomaly)
                return False
            self.state.loss_sum += loss
            self.state.loss_count += 1
        return True

    def _skip(self, step: int) -> None:
        assert self._scale is not None
        self.optimizer.clear_gradients()
        if self._scale.is_news:
            fix = "Nothing: it belongs to training in float16 (--dtype)"
            self.observer.observe(Event(step, "overflow", "info", self._scale.message, fix))

    def _anomaly(self, step: int, loss: float, norm: float) -> Anomaly | None:
        if self.config.on_spike == "warn":
            # Only what is fatal matters, which all processes see alike.
            return self.detector.on_loss(step, loss, norm)
        return self.team.first(lambda: self.detector.on_loss(step, loss, norm))

    def _roll_back(self, anomaly: Anomaly) -> None:
        state = self.state
        if self.good_states is None or state.rollbacks >= self.config.max_rollbacks:
            self._fail(anomaly)
        good_step = self.good_states.go_back(anomaly.since)
        self.optimizer.clear_gradients()
        state.rollbacks += 1
        state.rate_scale *= RATE_AFTER_ROLLBACK
        # The count of steps goes on, and the batches with it: what was learned from the batches
        # since then is gone, and they do not come again.
        message = (
            f"weights and optimizer are back at step {good_step:,}; the batches of steps "
            f"{good_step + 1:,} to {state.step:,} are skipped, and from here on the learning rate "
            f"is {state.rate_scale:g} times the planned one"
        )
        count = f"rollback {state.rollbacks} of at most {self.config.max_rollbacks}"
        fix = f"Nothing for now: this was {count}. {anomaly.fix}"
        self.observer.observe(Event(state.step, "rollback", "warning", message, fix))

    def _fail(self, anomaly: Anomaly) -> NoReturn:
        saved = f"the checkpoint of step {self._saved_step:,} is whole"
        n = self.state.rollbacks
        tried = f" after {n} rollback{'s' if n > 1 else ''}" if n else ""
        raise InstabilityError(
            f"{anomaly.what}; training stopped{tried}, and "
            f"{saved if self._saved_step >= 0 else 'no checkpoint was due before it'}",
            anomaly.fix,
        )

    def _report_step(self) -> None:
        state, config = self.state, self.config
        self._read_losses()
        loss, norm = self._last
        self.observer.observe(
            StepReport(
                step=state.step,
                steps=state.steps,
                loss=loss,
                gradient_norm=norm,
                learning_rate=rate_of_run(config, state, state.step - 1) * config.learning_rate,
                tokens=state.tokens,
                tokens_per_second=self._step_tokens / max(self._clock.since_report(), 1e-9),
                elapsed_seconds=self._clock.elapsed(),
                seconds_left=self._budget.seconds_left(),
            )
        )

    def _evaluate(self) -> None:
        state = self.state
        self._read_losses()
        mean_loss = state.loss_sum / state.loss_count if state.loss_count else math.nan
        state.train_loss, state.loss_sum, state.loss_count = mean_loss, 0.0, 0
        with self.hooks.looking():
            if self.hooks.n_holdout:
                self._score_holdout()
            rate, is_last = rate_of_run(self.config, state, state.step), state.step == state.steps
            self.detector.on_evaluation(
                state.step, state.train_loss, state.holdout_loss, rate, is_last=is_last
            )
        if self.good_states is not None:
            self._collect_state()
            self.good_states.take(state.step)
        self.observer.observe(Phase(""))
        self.model.train()

    def _score_holdout(self) -> None:
        state = self.state
        self.observer.observe(Phase("scoring the holdout"))
        with self._clock.timing("scoring"):
            measured = self.team.first(lambda: self.hooks.evaluate(False))
        state.holdout_loss, state.holdout_margin = measured.loss, measured.margin
        state.holdout_tokens, state.scored_step = measured.n_tokens, state.step
        is_best = measured.loss < state.best_holdout_loss
        if is_best:
            state.best_holdout_loss, state.best_step = measured.loss, state.step
            state.evaluations_since_best = 0
        else:
            state.evaluations_since_best += 1
        if not self.team.is_first:
            return
        prompt, sample = self.hooks.sample()
        self.observer.observe(
            EvaluationReport(
                step=state.step,
                train_loss=state.train_loss,
                holdout_loss=measured.loss,
                holdout_bits_per_byte=measured.bits_per_byte,
                holdout_tokens=measured.n_tokens,
                is_best=is_best,
                sample=sample,
                sample_prompt=prompt,
                old_holdout_loss=measured.old_loss,
            )
        )

    def _save(self) -> None:
        if self._saved_step == self.state.step:
            return
        self._read_losses()
        self.state.elapsed_seconds = self._clock.elapsed()
        self._collect_state()
        self.hooks.save(self.state, self.config)
        self._saved_step = self.state.step
        self._clock.pause_done()

    def _collect_state(self) -> None:
        if self.team.size > 1:
            self.optimizer.collect_state()

    def _tell_saved(self) -> None:
        for step, directory in self.hooks.saved():
            self.observer.observe(CheckpointSaved(step, directory))

    def _interrupt(self) -> NoReturn:
        self._save()
        self._tell_saved()
        number = self.stop.exit_signal
        assert number is not None
        end = self._ended("interrupted", self.state.holdout_loss, self.hooks.n_scored)
        self.observer.observe(end)
        raise InterruptedRunError(
            f"stopped after step {self.state.step:,} of {self.state.steps:,}, which is saved",
            f"Go on with: minitx resume {shell_word(self.hooks.run)}",
            number,
        )

    def _end(self, reason: str) -> RunEnd:
        final, hooks = self.state.holdout_loss, self.hooks
        with hooks.looking():
            if not hooks.closes_with_evaluation and self.team.is_first:
                is_whole = hooks.n_closing >= hooks.n_holdout - 1
                part = "the whole" if is_whole else f"{hooks.n_closing:,} tokens of the"
                self.observer.observe(Phase(f"scoring {part} holdout"))
                try:
                    final = hooks.evaluate(True).loss
                except StopEvaluation:
                    self._interrupt()
                self.observer.observe(Phase(""))
        self._tell_saved()
        end = self._ended(reason, final, hooks.n_closing)
        self.observer.observe(end)
        return end

    def _ended(self, reason: str, final: float, n_scored: int) -> RunEnd:
        state = self.state
        return RunEnd(
            step=state.step,
            reason=reason,
            best_step=state.best_step,
            best_holdout_loss=state.best_holdout_loss,
            final_holdout_loss=final,
            elapsed_seconds=self._clock.elapsed(),
            tokens=state.tokens,
            final_holdout_tokens=n_scored if self.hooks.n_holdout else 0,
            best_holdout_tokens=self.hooks.n_scored if self.hooks.n_holdout else None,
        )
