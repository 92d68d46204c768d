"""The training loop: gradient, update, and now and then a look at the holdout and a checkpoint."""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor

from minitx.compute import Compute
from minitx.config import TrainConfig
from minitx.errors import InstabilityError, InterruptedRunError
from minitx.model import Transformer
from minitx.training.anomalies import Concern, Watch
from minitx.training.batches import Batches
from minitx.training.budget import (
    LOOK_AGAIN,
    Pace,
    corrected_steps,
    is_early,
    settle_steps,
    tolerated,
)
from minitx.training.clock import SETTLING_STEPS, Clock
from minitx.training.good_states import GoodStates
from minitx.training.gradients import gradient_pass
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
from minitx.training.schedule import rate_factor
from minitx.training.signals import StopRequest
from minitx.training.state import TrainingState

RATE_AFTER_ROLLBACK = 0.5
"""What the learning rate is multiplied with at each rollback."""


@dataclass(frozen=True)
class HoldoutLoss:
    """What an evaluation measured.

    Attributes:
        loss: nats per token.
        bits_per_byte: the same loss, in bits per byte of the text.
    """

    loss: float
    bits_per_byte: float


class StopEvaluation(Exception):  # noqa: N818
    """The closing evaluation was cut short by a request to stop."""


@dataclass(frozen=True)
class Surroundings:
    """What the loop asks of the run it is part of.

    Attributes:
        run: its directory, for messages.
        evaluate: scores the holdout: as now and then in the run, or (given True) as after the last
            step; the latter may raise `StopEvaluation`.
        sample: prompt and continuation drawn from the model, to show.
        save: keeps the run as it stands; may return before the disk has it.
        saved: checkpoints that reached the disk since the last call.
        settle: told when the number of steps is settled, or changes; returns when that is on disk.
        n_holdout: tokens of the holdout; 0 if there is none to score.
        n_scored: how many of them an evaluation scores.
        n_closing: how many of them are scored after the last step.
    """

    run: Path
    evaluate: Callable[[bool], HoldoutLoss]
    sample: Callable[[], tuple[str, str]]
    save: Callable[[TrainingState, TrainConfig], None]
    saved: Callable[[], list[tuple[int, Path]]]
    settle: Callable[[TrainConfig], None]
    n_holdout: int
    n_scored: int
    n_closing: int

    @property
    def closes_with_evaluation(self) -> bool:
        """Whether the evaluation of the last step says all that is said at the end."""
        return not self.n_holdout or self.n_scored == self.n_closing


class Trainer:
    """Trains a model from where its state stands to its last step.

    Args:
        model: trained in place; in train mode afterwards.
        optimizer: over the model's parameters.
        batches: what it learns from.
        config: how.
        compute: device and number format.
        state: where the run stands; updated in place.
        observer: told what happens.
        around: evaluation, sampling and saving.
        stop: checked after each step.
        watch: looks for trouble.
        good_states: to go back to; None unless the policy is `rollback`.
        now: a clock, in seconds.
    """

    def __init__(
        self,
        model: Transformer,
        optimizer: Optimizer,
        batches: Batches,
        config: TrainConfig,
        compute: Compute,
        state: TrainingState,
        observer: TrainingObserver,
        around: Surroundings,
        stop: StopRequest,
        watch: Watch,
        good_states: GoodStates | None = None,
        now: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.batches = batches
        self.config = config
        self.compute = compute
        self.state = state
        self.observer = observer
        self.around = around
        self.stop = stop
        self.watch = watch
        self.good_states = good_states
        # Where reading a number costs nothing, or where it matters to which step it belongs.
        self._reads_each_step = compute.device.type == "cpu" or config.on_spike != "warn"
        self._pass = gradient_pass(model, config, compute)
        self._ahead = RunAhead(compute.device)
        self._unread: list[tuple[Tensor, Tensor]] = []
        self._last = (math.nan, math.nan)
        self._clock = Clock(state.elapsed_seconds, now)
        # What was left when the number of steps was last looked at: seconds of the budget, steps.
        self._looked_at = (
            (config.budget_seconds or 0.0) - state.elapsed_seconds,
            state.steps - state.step,
        )
        # Of a run that begins, nothing is saved yet.
        self._saved_step = state.step if state.step else -1

    def run(self) -> RunEnd:
        """Do all steps that are left, and the closing evaluation.

        A new run is saved before its first step, so that from there on it can be resumed.

        Returns:
            How it ended. The last checkpoint is saved.

        Raises:
            InstabilityError: the loss or the gradient norm is no number, or the policy is to
                stop. Nothing of that is saved: the last checkpoint is from before.
            InterruptedRunError: a signal asked to stop; the run is saved.
            BadInputError: a file of the run can't be written.
        """
        state, config = self.state, self.config
        self.model.train()
        if state.step == 0:
            with self._clock.timing("saving"):
                self._save()
        if self.good_states is not None:
            self.good_states.take(state.step)
        compiling = config.compile
        if compiling:
            self.observer.observe(Phase("compiling, with the first step"))
        while state.step < state.steps and not self._stopped_early():
            learned = self._step()
            if compiling:
                self.observer.observe(Phase(""))
                compiling = False
            if learned and (self._is_due(config.log_every) or state.step == 1):
                self._report_step()
            self._settle()
            if self._is_due(config.evaluate_every) or state.step == state.steps:
                with self._clock.timing("evaluation"):
                    self._evaluate()
                self._clock.pause_done()
            if self._is_due(config.checkpoint_every) or state.step == state.best_step:
                self._save()
            self._tell_saved()
            # After the evaluation, so that a resumed run goes on with the next step.
            if self.stop.signal_number is not None:
                self._interrupt()
        self._save()
        return self._end("finished" if state.step >= state.steps else "early-stopping")

    def _stopped_early(self) -> bool:
        patience = self.config.early_stopping
        return bool(patience) and self.state.evaluations_since_best >= patience

    def _step(self) -> bool:
        # False if the step was so bad that training went back instead.
        state, config = self.state, self.config
        factor = self._rate_factor()
        loss = self._gradients()
        norm, norms = self.optimizer.clip_gradients()
        self._unread.append((loss, norm))
        state.step += 1
        state.tokens += config.batch_size * config.accumulation * self.model.config.context_length
        # Before the update, so that the weights are still those that gave the loss.
        learned = not self._reads_each_step or self._read_losses()
        if learned:
            self.watch.before_update(state.step, norms)
            self.optimizer.update(factor)
            self.watch.after_update(state.step)
        self._ahead.step_done()
        self._clock.step_done()
        return learned

    def _gradients(self) -> Tensor:
        # Mean loss of one optimizer step's batches, left with its gradients in the parameters.
        total: Tensor | None = None
        passes = self.config.accumulation
        for number in range(self.state.step * passes, (self.state.step + 1) * passes):
            if self.model.config.dropout:
                # A seed for each batch makes the masks a function of its number, so that a
                # resumed run needs no state of a random generator.
                torch.manual_seed(_mixed(self.config.seed, number))
            inputs, targets = self.batches[number]
            loss = self._pass(inputs, targets)
            total = loss if total is None else total + loss
        assert total is not None
        return total / passes if passes > 1 else total

    def _rate_factor(self) -> float:
        state, config = self.state, self.config
        if not state.steps_settled and not config.step_decisions:
            return state.rate_scale * min(1.0, (state.step + 1) / max(1, config.warmup_steps))
        factor = rate_factor(config, state.step, state.steps)
        if state.rewarm_step >= 0 and config.warmup_steps:
            done = state.step + 1 - state.rewarm_step
            factor *= min(1.0, done / config.warmup_steps)
        return state.rate_scale * factor

    def _read_losses(self) -> bool:
        # Reading waits for the device, so it may be done for several steps at once. False if
        # training went back.
        unread, self._unread = self._unread, []
        for index, (loss, norm) in enumerate(_numbers(unread)):
            self._last = loss, norm
            step = self.state.step - len(unread) + 1 + index
            concern = self.watch.on_loss(step, *self._last)
            if concern is not None and (concern.fatal or self.config.on_spike != "warn"):
                self._roll_back(concern)
                return False
            self.state.loss_sum += self._last[0]
            self.state.loss_count += 1
        return True

    def _roll_back(self, concern: Concern) -> None:
        state = self.state
        if self.good_states is None or state.rollbacks >= self.config.max_rollbacks:
            self._fail(concern)
        good_step = self.good_states.go_back(concern.since)
        self.optimizer.clear_gradients()
        state.rollbacks += 1
        state.rate_scale *= RATE_AFTER_ROLLBACK
        # The count of steps goes on, and the batches with it: what was learned from the batches
        # since then is gone, and they do not come again.
        self.observer.observe(
            Event(
                step=state.step,
                name="rollback",
                severity="warning",
                message=f"weights and optimizer are those of step {good_step:,} again; the batches "
                f"of steps {good_step + 1:,} to {state.step:,} are skipped; the learning rate is "
                f"{state.rate_scale:g} times the planned one from here on",
                fix=f"Nothing now: this was rollback {state.rollbacks} of at most "
                f"{self.config.max_rollbacks}. {concern.fix}",
            )
        )

    def _fail(self, concern: Concern) -> NoReturn:
        saved = f"the checkpoint of step {self._saved_step:,} is whole"
        n = self.state.rollbacks
        tried = f" after {n} rollback{'s' if n > 1 else ''}" if n else ""
        raise InstabilityError(
            f"{concern.what}; training stopped{tried}, and "
            f"{saved if self._saved_step >= 0 else 'no checkpoint was due before it'}",
            concern.fix,
        )

    def _report_step(self) -> None:
        state = self.state
        rate = self._rate_of_last_step()
        self._read_losses()
        loss, norm = self._last
        seconds_per_step = self._clock.since_report()
        tokens = state.tokens / max(1, state.step)
        self.observer.observe(
            StepReport(
                step=state.step,
                steps=state.steps,
                loss=loss,
                gradient_norm=norm,
                learning_rate=rate,
                tokens=state.tokens,
                tokens_per_second=tokens / max(seconds_per_step, 1e-9),
                elapsed_seconds=self._clock.elapsed(),
                seconds_left=self._seconds_left(),
            )
        )

    def _rate_of_last_step(self) -> float:
        self.state.step -= 1
        try:
            return self._rate_factor() * self.config.learning_rate
        finally:
            self.state.step += 1

    def _seconds_left(self) -> float:
        state = self.state
        if self.config.budget_seconds is not None and not state.steps_settled:
            return max(0.0, self.config.budget_seconds - self._clock.elapsed())
        return self._pace().seconds(state.step, state.steps)

    def _pace(self) -> Pace:
        config, clock, around = self.config, self._clock, self.around
        per_step = clock.seconds_per_step()
        tokens = config.batch_size * config.accumulation * self.model.config.context_length
        # Until it is measured (`_time_scoring`): a forward pass costs about a third of a step.
        scoring = clock.took("scoring", per_step / 3 * around.n_scored / tokens)
        closing = clock.took("saving", 0.0)
        if not around.closes_with_evaluation:
            closing += scoring * around.n_closing / around.n_scored
        return Pace(per_step, clock.took("evaluation", scoring), closing, config.evaluate_every)

    def _settle(self) -> None:
        state, budget = self.state, self.config.budget_seconds
        if state.steps_settled or budget is None:
            return
        self._time_scoring(budget)
        used = self._clock.elapsed()
        left = budget - used
        if self.config.step_decisions:
            self._correct(left, budget)
            return
        affordable = self._pace().affordable(state.step, left)
        steps = settle_steps(self.config, state.step, affordable, used, left)
        if steps is None:
            # Shown until it is settled, and no end before that.
            state.steps = max(state.step + 1, affordable)
            return
        self._decide(steps, "the learning rate falls from here")
        self._looked_at = left, state.steps - state.step

    def _correct(self, left: float, budget: float) -> None:
        state = self.state
        seconds_then, steps_then = self._looked_at
        kept = 1.0 - LOOK_AGAIN
        soon = left > kept * seconds_then and state.steps - state.step > kept * steps_then
        # A resumed run may have decisions before it that were made already.
        decided = state.step <= self.config.step_decisions[-1][0]
        if soon or decided or state.step >= state.steps:
            return
        steps = corrected_steps(self.config, state.step, self._pace(), left, budget)
        self._clock.forget()
        if steps is not None:
            faster = "slower" if steps > state.steps else "faster"
            self._decide(steps, f"the learning rate falls {faster} from here")
        self._looked_at = left, state.steps - state.step

    def _time_scoring(self, budget: float) -> None:
        """Score the holdout to see how long it takes, where a guess would decide too much.

        Only in a session that has not looked at the holdout before it is time to settle. The loss
        is not kept: a run that repeats the decisions of this one does not come here.
        """
        config, used = self.config, self._clock.elapsed()
        left = budget - used
        if (
            not self.around.n_holdout
            or self._clock.knows("scoring")
            or self.state.step < max(config.warmup_steps, SETTLING_STEPS + 1)
            or is_early(config, used, left)
        ):
            return
        pace = self._pace()
        at_stake = pace.evaluation + pace.closing
        if at_stake <= tolerated(left, budget) or pace.evaluation > left:
            return
        self.observer.observe(Phase("scoring the holdout"))
        with self._clock.timing("scoring"):
            self.around.evaluate(False)
        self.observer.observe(Phase(""))
        self._clock.pause_done()

    def _decide(self, steps: int, then: str) -> None:
        state = self.state
        state.steps = max(steps, state.step)
        step_decisions = (*self.config.step_decisions, (state.step, state.steps))
        self.config = replace(self.config, steps=state.steps, step_decisions=step_decisions)
        self.around.settle(self.config)
        self.observer.observe(
            Event(
                step=state.step,
                name="steps-settled",
                severity="info",
                message=f"{state.steps:,} steps fit the time budget; {then}",
            )
        )

    def _evaluate(self) -> None:
        state = self.state
        self._read_losses()
        mean_loss = state.loss_sum / state.loss_count if state.loss_count else math.nan
        state.train_loss, state.loss_sum, state.loss_count = mean_loss, 0.0, 0
        if self.around.n_holdout:
            self._score_holdout()
        self.watch.on_evaluation(
            state.step,
            state.train_loss,
            state.holdout_loss,
            self._rate_factor(),
            is_last=state.step == state.steps,
        )
        if self.good_states is not None:
            self.good_states.take(state.step)
        self.observer.observe(Phase(""))
        self.model.train()

    def _score_holdout(self) -> None:
        state = self.state
        self.observer.observe(Phase("scoring the holdout"))
        with self._clock.timing("scoring"):
            measured = self.around.evaluate(False)
        state.holdout_loss = measured.loss
        is_best = measured.loss < state.best_holdout_loss
        if is_best:
            state.best_holdout_loss, state.best_step = measured.loss, state.step
            state.evaluations_since_best = 0
        else:
            state.evaluations_since_best += 1
        prompt, sample = self.around.sample()
        self.observer.observe(
            EvaluationReport(
                step=state.step,
                train_loss=state.train_loss,
                holdout_loss=measured.loss,
                holdout_bits_per_byte=measured.bits_per_byte,
                is_best=is_best,
                sample=sample,
                sample_prompt=prompt,
            )
        )

    def _save(self) -> None:
        if self._saved_step == self.state.step:
            return
        self._read_losses()
        self.state.elapsed_seconds = self._clock.elapsed()
        self.around.save(self.state, self.config)
        self._saved_step = self.state.step
        self._clock.pause_done()

    def _tell_saved(self) -> None:
        for step, directory in self.around.saved():
            self.observer.observe(CheckpointSaved(step, directory))

    def _interrupt(self) -> NoReturn:
        self._save()
        self._tell_saved()
        number = self.stop.exit_signal
        assert number is not None
        self.observer.observe(
            self._ended("interrupted", self.state.holdout_loss, self.around.n_scored)
        )
        raise InterruptedRunError(
            f"stopped after step {self.state.step:,} of {self.state.steps:,}, which is saved",
            f"Go on with: minitx resume {shlex.quote(str(self.around.run))}",
            number,
        )

    def _end(self, reason: str) -> RunEnd:
        final, around = self.state.holdout_loss, self.around
        if not around.closes_with_evaluation:
            whole = around.n_closing == around.n_holdout
            part = "the whole" if whole else f"{around.n_closing:,} tokens of the"
            self.observer.observe(Phase(f"scoring {part} holdout"))
            try:
                final = around.evaluate(True).loss
            except StopEvaluation:
                self._interrupt()
            self.observer.observe(Phase(""))
        self._tell_saved()
        end = self._ended(reason, final, around.n_closing)
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
            final_holdout_tokens=n_scored if self.around.n_holdout else 0,
        )

    def _is_due(self, every: int) -> bool:
        return self.state.step % every == 0


def _numbers(pairs: list[tuple[Tensor, Tensor]]) -> list[tuple[float, float]]:
    if len(pairs) == 1:
        return [(float(pairs[0][0]), float(pairs[0][1]))]
    if not pairs:
        return []
    # Each look at a device's memory waits for it: one for all.
    rows = torch.stack([torch.stack(pair) for pair in pairs]).tolist()
    return [(loss, norm) for loss, norm in rows]


def _mixed(seed: int, number: int) -> int:
    # Neighbouring numbers must give unrelated seeds: the finalizer of SplitMix64.
    z = (seed * 0x9E3779B97F4A7C15 + number + 1) * 0x9E3779B97F4A7C15 % 2**64
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return (z ^ (z >> 31)) % 2**63
