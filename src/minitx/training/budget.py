"""How many steps fit a time budget.

The learning rate does not depend on the number of steps before its decay begins (see `schedule`).
So the number is decided no sooner than that: at the step from which a decay over the configured
fraction of the run would end with the budget. A machine is not as fast in the second half of a run
as in the first, so the number is checked again during the decay, each time that a third of the
time left has passed, or of the steps; where it is far off, the decay goes on from where it stands
to another end.

Each decision is noted in the configuration: a step, and the number of steps from there on. The
rate at each step follows from them, so a run is repeated to the bit by its decisions, whatever the
clock says then.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, replace

from minitx.config import TrainConfig
from minitx.training.clock import UNTIMED_STEPS, Clock
from minitx.training.hooks import RunHooks
from minitx.training.observer import Event, Phase, TrainingObserver
from minitx.training.schedule import decay_start
from minitx.training.state import TrainingState

EARLIEST = 0.7
"""Part of the plateau's share of the time before which nothing is decided: the average of a few
steps may be far off."""

NEARLY_OUT = 0.05
"""Part of the time with which a run may end in its warmup."""

LOOK_AGAIN = 1 / 3
"""Part of the time left, or of the steps, after which the number of steps is checked again."""

TOLERATED_OF_LEFT = 0.05
"""Part of the time left by which a run may end too soon or too late and the number of steps stays:
a later check, with less time left, tolerates less; ..."""

TOLERATED_OF_BUDGET = 0.005
"""... but always this part of the budget, which nobody minds."""


def is_early(config: TrainConfig, seconds_used: float, seconds_left: float) -> bool:
    """Whether so little of the plateau has passed that nothing is decided yet."""
    plateau = (1.0 - config.decay_fraction) * (seconds_used + seconds_left)
    return seconds_used < EARLIEST * plateau


def tolerated(seconds_left: float, budget: float) -> float:
    """Seconds that a run may end too soon or too late by."""
    return max(TOLERATED_OF_LEFT * seconds_left, TOLERATED_OF_BUDGET * budget)


@dataclass(frozen=True)
class Pace:
    """What the rest of a run will take, in seconds.

    Attributes:
        step: of an optimizer step, with its share of checkpoints.
        closing: after the last step: the loss of the whole holdout, the last checkpoint.
        evaluate_every: steps from one evaluation to the next; the last step has one, too.
    """

    step: float
    evaluation: float
    closing: float
    evaluate_every: int

    def seconds(self, step: int, steps: int) -> float:
        """From the end of step `step`, whose evaluation is not done yet, to that of the run."""
        evaluations = -(-steps // self.evaluate_every) - (step - 1) // self.evaluate_every
        return (steps - step) * self.step + evaluations * self.evaluation + self.closing

    def affordable(self, step: int, seconds_left: float) -> int:
        """Steps of the longest run that ends in time; `step` if no further one fits."""
        most = max(0, int(seconds_left / max(self.step, 1e-9)))
        later = range(step + 1, step + most + 2)
        return step + bisect_right(later, seconds_left, key=lambda n: self.seconds(step, n))


def steps_ending_at(config: TrainConfig, step: int) -> int:
    """Length of the run whose decay begins after `step` steps.

    A run can't be shorter than its warmup; one that has no plateau (`decay_fraction` 1) has no
    such length, and gets the shortest.
    """
    plateau = 1.0 - config.decay_fraction
    steps = round(step / plateau) if plateau > 0 else step + 1
    # Rounding may put the decay a step early: the plateau must not end in the past.
    while decay_start(config, steps) < step:
        steps += 1
    return max(steps, step + 1)


def decided_steps(
    config: TrainConfig, step: int, affordable: int, seconds_used: float, seconds_left: float
) -> int | None:
    """Steps of the whole run if, after `step`, the decay has to begin now; None for the plateau.

    Never more than `max_steps`, if that is set, unless they are done already. `affordable` are the
    steps of the longest run that ends in time (`Pace.affordable`).
    """
    steps = _steps_by_time(config, step, affordable, seconds_used, seconds_left)
    most = config.max_steps
    if not most:
        return steps
    if steps is not None:
        return max(step, min(steps, most))
    # At the plateau's end of a run of that length, unless time ends sooner.
    return max(step, most) if step >= min(most, decay_start(config, most)) else None


def _steps_by_time(
    config: TrainConfig, step: int, affordable: int, seconds_used: float, seconds_left: float
) -> int | None:
    if step < min(config.warmup_steps, 1) + UNTIMED_STEPS:
        return None
    if config.decay == "constant":
        return step if affordable <= step else None
    affordable = max(step + 1, affordable)
    if step < config.warmup_steps:
        # Time may run out before the warmup ends; then there is nothing to decay. What a few steps
        # took says little, so nothing is decided before it nearly has.
        late = seconds_left <= NEARLY_OUT * (seconds_used + seconds_left)
        return affordable if late and affordable == step + 1 else None
    if config.decay_fraction >= 1.0:
        return affordable
    if is_early(config, seconds_used, seconds_left):
        return None
    ending = steps_ending_at(config, step)
    return ending if ending >= affordable else None


def corrected_steps(
    config: TrainConfig, step: int, pace: Pace, seconds_left: float, budget: float
) -> int | None:
    """Steps of the whole run if the decay has to end at another than was decided; else None."""
    steps = config.step_decisions[-1][1]
    fitting = max(step + 1, pace.affordable(step, seconds_left))
    if config.max_steps:
        fitting = min(fitting, max(step + 1, config.max_steps))
    off = abs(fitting - steps) * pace.step
    return fitting if off > tolerated(seconds_left, budget) else None


@dataclass(eq=False)
class BudgetController:
    """Decides while a run goes on how many steps it has, and says how much time they will take.

    A decision is noted in `config`, on disk (by the hooks) and in `state.steps`.
    """

    config: TrainConfig
    state: TrainingState
    clock: Clock
    hooks: RunHooks
    observer: TrainingObserver
    step_tokens: int

    def __post_init__(self) -> None:
        self._slept = self.clock.slept()
        self._note_check((self.config.budget_seconds or 0.0) - self.state.elapsed_seconds)

    def after_step(self) -> None:
        """Decide how many steps there are, if it is time to."""
        state, budget = self.state, self.config.budget_seconds
        self._tell_sleep()
        if state.steps_decided or budget is None:
            return
        self._time_scoring(budget)
        used = self.clock.elapsed()
        left = budget - used
        if self.config.step_decisions:
            self._correct(left, budget)
            return
        affordable = self._pace().affordable(state.step, left)
        steps = decided_steps(self.config, state.step, affordable, used, left)
        if steps is None:
            # Shown until it is decided, and no end before that.
            state.steps = max(state.step + 1, affordable)
        else:
            self._decide(steps, "the learning rate starts to fall")
            self._note_check(left)

    def seconds_left(self) -> float:
        """Estimated time to the end of the run."""
        state, budget = self.state, self.config.budget_seconds
        if budget is not None and not state.steps_decided:
            return max(0.0, budget - self.clock.elapsed())
        return self._pace().seconds(state.step, state.steps)

    def _tell_sleep(self) -> None:
        slept = self.clock.slept() - self._slept
        if slept:
            self._slept += slept
            message = f"the process stood still for {slept:.0f} s, which count as no training"
            self.observer.observe(Event(self.state.step, "slept", "info", message))

    def _note_check(self, seconds_left: float) -> None:
        self._seconds_then, self._steps_then = seconds_left, self.state.steps - self.state.step

    def _pace(self) -> Pace:
        clock, hooks = self.clock, self.hooks
        per_step = clock.seconds_per_step()
        # Until it is measured (`_time_scoring`): a forward pass costs about a third of a step.
        scoring = clock.seconds_of("scoring")
        if scoring is None:
            scoring = per_step / 3 * hooks.n_scored / self.step_tokens
        closing = clock.seconds_of("saving") or 0.0
        if not hooks.closes_with_evaluation:
            closing += scoring * hooks.n_closing / hooks.n_scored
        evaluation = clock.seconds_of("evaluation")
        if evaluation is None:
            evaluation = scoring
        return Pace(per_step, evaluation, closing, self.config.evaluate_every)

    def _correct(self, left: float, budget: float) -> None:
        state, kept = self.state, 1.0 - LOOK_AGAIN
        steps_left = state.steps - state.step
        is_soon = left > kept * self._seconds_then and steps_left > kept * self._steps_then
        # A resumed run may have decisions before it that were made already.
        is_decided = state.step <= self.config.step_decisions[-1][0]
        if is_soon or is_decided or steps_left <= 0:
            return
        steps = corrected_steps(self.config, state.step, self._pace(), left, budget)
        self.clock.forget()
        if steps is not None:
            speed = "more slowly" if steps > state.steps else "faster"
            self._decide(steps, f"from here on the learning rate falls {speed}")
        self._note_check(left)

    def _time_scoring(self, budget: float) -> None:
        """Evaluate once to see how long it takes, since a guess would decide too much.

        Only in a session without an evaluation before it is time to decide. The loss is not kept:
        a run that repeats the decisions of this one does not come here. Of a model that is shared
        out, one process alone can't do it.
        """
        used = self.clock.elapsed()
        left = budget - used
        if (
            not self.hooks.n_holdout
            or self.config.shard
            or self.clock.seconds_of("scoring") is not None
            or self.state.step < max(self.config.warmup_steps, UNTIMED_STEPS + 1)
            or is_early(self.config, used, left)
        ):
            return
        if self._pace().evaluation > left:
            return
        self.observer.observe(Phase("scoring the holdout"))
        with self.clock.timing("evaluation"):
            with self.clock.timing("scoring"):
                self.hooks.evaluate(False)
            self.hooks.sample()
            self.hooks.look()
        self.observer.observe(Phase(""))
        self.clock.pause_done()

    def _decide(self, steps: int, consequence: str) -> None:
        state = self.state
        state.steps = max(steps, state.step)
        decisions = (*self.config.step_decisions, (state.step, state.steps))
        self.config = replace(self.config, steps=state.steps, step_decisions=decisions)
        self.hooks.save_config(self.config)
        message = f"at this speed, {state.steps:,} steps fit the time budget; {consequence}"
        self.observer.observe(Event(state.step, "steps-settled", "info", message))
