"""How a run fits its time budget, on a clock that the test moves."""

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from minitx.compute import Compute
from minitx.config import TrainConfig
from minitx.errors import BadInputError
from minitx.training.awake import AwakeClock
from minitx.training.budget import Pace, corrected_steps, decided_steps, steps_ending_at
from minitx.training.hooks import AnomalyDetector, HoldoutLoss, RunHooks
from minitx.training.loop import Trainer
from minitx.training.observer import TrainingObserver
from minitx.training.schedule import decay_start, rate_factor
from minitx.training.state import TrainingState


def config(**values):
    return TrainConfig(**{"steps": 1, "batch_size": 1, "learning_rate": 1.0, **values})


def simulate(train, budget, seconds_per_step, start_up=0.0):
    """Run a clock instead of a model; return the decided steps and when the last one ends."""
    step, now = 0, start_up
    while True:
        step += 1
        now += seconds_per_step(step)
        affordable = step + int((budget - now) / ((now - start_up) / step))
        steps = decided_steps(train, step, affordable, now, budget - now)
        if steps is not None:
            return step, steps, now + sum(seconds_per_step(i) for i in range(step + 1, steps + 1))


@settings(max_examples=150, deadline=None)
@given(
    budget=st.floats(5, 500),
    speed=st.floats(0.005, 0.5),
    fraction=st.sampled_from([0.2, 0.4, 0.6, 0.9, 1.0]),
    warmup=st.integers(0, 30),
)
def test_steady_machine_ends_on_time(budget, speed, fraction, warmup):
    train = config(decay_fraction=fraction, warmup_steps=warmup)
    decided, steps, end = simulate(train, budget, lambda _: speed)
    assert steps >= decided
    slack = speed * (3 / (1 - fraction) if fraction < 1 else 3) + 3 * speed
    minimum = speed * (max(warmup, 4) + 4) / max(0.05, 1 - fraction)
    assert end <= max(budget, minimum) + slack
    assert end >= min(budget - slack, minimum)


@settings(max_examples=150, deadline=None)
@given(
    step=st.integers(1, 5000),
    fraction=st.floats(0.0, 0.99),
    warmup=st.integers(0, 40),
    decay=st.sampled_from(["linear", "cosine"]),
)
def test_run_of_a_decision_is_the_run_that_steps_would_have_been(step, fraction, warmup, decay):
    """Until it is decided the rate ignores the number of steps; so must the decided schedule."""
    train = config(decay_fraction=fraction, warmup_steps=warmup, decay=decay)
    steps = steps_ending_at(train, step)
    assert decay_start(train, steps) >= min(step, steps)
    for earlier in range(max(0, step - 50), step):
        undecided = min(1.0, (earlier + 1) / max(1, warmup))
        assert rate_factor(train, earlier, steps) == undecided


def test_slower_machine_halfway_decides_sooner():
    train = config(decay_fraction=0.5, warmup_steps=5)
    steady = simulate(train, 100, lambda _: 0.1)
    slower = simulate(train, 100, lambda step: 0.1 if step < 300 else 0.3)
    assert slower[1] < steady[1]


def test_a_slow_start_decides_nothing():
    """One slow evaluation among the first steps says little about the rest."""
    train = config(decay_fraction=0.5, warmup_steps=2)
    _, steps, end = simulate(train, 10, lambda step: 1.0 if step == 3 else 0.01)
    assert steps > 500
    assert end < 11


def test_constant_rate_runs_until_time_is_up():
    train = config(decay="constant", warmup_steps=5)
    assert decided_steps(train, 50, 51, 5.0, 0.1) is None
    assert decided_steps(train, 50, 50, 5.0, 0.05) == 50


def test_first_steps_decide_nothing():
    assert decided_steps(config(), 1, 1, 100.0, 0.1) is None


@pytest.mark.parametrize("left", [0.0, 0.5, -3.0])
def test_time_that_runs_out_in_the_warmup_ends_the_run(left):
    train = config(warmup_steps=1000)
    assert decided_steps(train, 100, 100, 100.0, left) == 101


@settings(max_examples=150, deadline=None)
@given(
    budget=st.floats(5, 500),
    speed=st.floats(0.005, 0.5),
    fraction=st.sampled_from([0.2, 0.6, 1.0]),
    most=st.integers(1, 400),
    decay=st.sampled_from(["linear", "constant"]),
)
def test_no_more_steps_than_the_most(budget, speed, fraction, most, decay):
    limited = config(decay_fraction=fraction, warmup_steps=5, max_steps=most, decay=decay)
    free = config(decay_fraction=fraction, warmup_steps=5, decay=decay)
    decided, steps, _ = simulate(limited, budget, lambda _: speed)
    _, unlimited, _ = simulate(free, budget, lambda _: speed)
    assert steps == max(decided, min(unlimited, most))
    # Settled while the rate can still fall over its whole fraction.
    if decay == "linear" and steps == most < unlimited and most > 20:
        assert decided <= decay_start(limited, most) + 1


@settings(max_examples=150, deadline=None)
@given(
    step=st.integers(1, 2000),
    every=st.integers(1, 300),
    seconds=st.floats(0.001, 1.0),
    evaluation=st.floats(0.0, 10.0),
    closing=st.floats(0.0, 10.0),
    left=st.floats(-10.0, 1000.0),
)
def test_affordable_is_the_longest_run_in_time(step, every, seconds, evaluation, closing, left):
    pace = Pace(seconds, evaluation, closing, every)
    steps = pace.affordable(step, left)
    assert steps == step or pace.seconds(step, steps) <= left
    assert pace.seconds(step, steps + 1) > left


@pytest.mark.parametrize("step", [1, 9, 10, 11, 40])
def test_pace_counts_every_evaluation_that_is_due(step):
    """Beside a loop that looks when the trainer does: at multiples, and at the end."""
    for steps in range(step + 1, step + 30):
        due = sum(n % 10 == 0 or n == steps for n in range(step, steps + 1))
        assert Pace(0.5, 100.0, 7.0, 10).seconds(step, steps) == (steps - step) / 2 + 100 * due + 7


@settings(max_examples=150, deadline=None)
@given(
    step=st.integers(30, 500),
    fraction=st.sampled_from([0.3, 0.6, 0.9]),
    decay=st.sampled_from(["linear", "cosine"]),
    moves=st.lists(st.tuples(st.integers(1, 40), st.integers(1, 400)), max_size=6),
)
def test_corrected_rate_falls_without_a_jump(step, fraction, decay, moves):
    train = config(decay_fraction=fraction, warmup_steps=20, decay=decay)
    decisions = [(step, steps_ending_at(train, step))]
    for later, left in moves:
        at, steps = decisions[-1]
        if at + later < steps:
            decisions.append((at + later, at + later + left))
    steps = decisions[-1][1]
    corrected = config(
        decay_fraction=fraction, warmup_steps=20, decay=decay, step_decisions=tuple(decisions)
    )
    rates = [rate_factor(corrected, i, steps) for i in range(steps)]
    # As planned until it was corrected, from which on the same way is gone to another end.
    for number, (at, _) in enumerate(decisions[1:], 1):
        before = config(
            decay_fraction=fraction, warmup_steps=20, decay=decay,
            step_decisions=tuple(decisions[:number]),
        )  # fmt: skip
        as_before = [rate_factor(before, i, decisions[number - 1][1]) for i in range(at)]
        assert rates[:at] == as_before
        assert rates[at] == pytest.approx(rate_factor(before, at, decisions[number - 1][1]))
    assert all(later <= earlier for earlier, later in zip(rates[20:], rates[21:], strict=False))
    assert rates[-1] > 0
    # Linear in each stretch, down to where the step after the last would have none.
    last = decisions[-1][0]
    if decay == "linear" and len(decisions) > 1:
        for i in range(last, steps):
            assert rates[i] == pytest.approx(rates[last] * (steps - i) / (steps - last))


def test_decisions_of_another_number_of_steps_count_nothing():
    with_them = config(step_decisions=((40, 100), (60, 150)))
    for step in range(200):
        assert rate_factor(with_them, step, 200) == rate_factor(config(), step, 200)


@pytest.mark.parametrize(
    "pairs",
    [
        ((5,),), ((-1, 5),), ((9, 5),), ((5, 9), (5, 10)), ((5, 9), (9, 12)), ((5, 9), (7, 7)),
        ((5, 2 * 10**9),),
    ],
)  # fmt: skip
def test_decisions_that_no_clock_made_are_refused(pairs):
    with pytest.raises(BadInputError, match="step_decisions is"):
        config(step_decisions=pairs)


def test_what_is_nearly_right_is_left():
    train = config(step_decisions=((40, 100),))
    pace = Pace(1.0, 0.0, 0.0, 1000)
    assert corrected_steps(train, 60, pace, 41.0, 100.0) is None
    assert corrected_steps(train, 60, pace, 50.5, 100.0) == 110
    assert corrected_steps(train, 60, pace, 30.5, 100.0) == 90
    assert corrected_steps(train, 60, pace, -5.0, 100.0) == 61
    limited = config(step_decisions=((40, 100),), max_steps=104)
    assert corrected_steps(limited, 60, pace, 50.0, 100.0) == 104
    full = config(step_decisions=((40, 100),), max_steps=100)
    assert corrected_steps(full, 60, pace, 50.0, 100.0) is None


# The loop itself, with a model that takes as long as the test says.


@dataclass
class Machine(TrainingObserver):
    """Stands for model, optimizer and disk; its clock runs only while one of them works."""

    seconds_of_step: object
    seconds_of_score: object = lambda tokens: 0.0
    seconds_of_save: float = 0.0
    seconds_of_sample: float = 0.0
    now: float = 1000.0
    step: int = 0
    rates: list = field(default_factory=list)
    decided: list = field(default_factory=list)
    scored: list = field(default_factory=list)
    closing: int = 1000
    phases: list = field(default_factory=list)
    events: list = field(default_factory=list)

    def train(self):
        pass

    config = SimpleNamespace(context_length=10, dropout=0.0, code_file=None)

    def parameters(self):
        return [torch.zeros(1)]

    def loss(self, inputs, targets):
        return torch.ones((), requires_grad=True)

    def clip_gradients(self):
        return torch.ones(()), torch.ones(1)

    def update(self, rate):
        self.step += 1
        self.now += self.seconds_of_step(self.step)
        self.rates.append(rate)

    def evaluate(self, closing):
        self.scored.append(self.closing if closing else 200)
        self.now += self.seconds_of_score(self.scored[-1])
        return HoldoutLoss(1.0, 1.0, self.scored[-1])

    def sample(self):
        self.now += self.seconds_of_sample
        return "", ""

    def save(self, state, config):
        self.now += self.seconds_of_save

    def save_config(self, config):
        self.decided.append(config)

    def on_phase(self, phase):
        self.phases.append(phase.name)

    def on_event(self, event):
        self.events.append(event)


def run(machine, budget=None, n_holdout=1000, steps=1, now=None, **keys):
    """Train; return the trainer's end."""
    train = config(
        budget_seconds=budget, steps=steps, batch_size=2, device="cpu", log_every=10,
        **{"warmup_steps": 5, "evaluate_every": 40, "checkpoint_every": 40, **keys},
    )  # fmt: skip
    hooks = RunHooks(
        run=Path("run"), evaluate=machine.evaluate, sample=machine.sample, save=machine.save,
        saved=list, save_config=machine.save_config, n_holdout=n_holdout,
        n_scored=min(200, n_holdout),
        n_closing=min(machine.closing, n_holdout),
    )  # fmt: skip
    trainer = Trainer(
        model=machine, optimizer=machine, batches=NoBatches(), config=train,
        compute=Compute(torch.device("cpu"), torch.float32),
        state=TrainingState(steps=steps, steps_decided=budget is None), observer=machine,
        hooks=hooks, stop=SimpleNamespace(signal_number=None), detector=AnomalyDetector(),
        now=now or (lambda: machine.now),
    )  # fmt: skip
    return trainer.run()


class NoBatches:
    def __getitem__(self, number):
        return None, None


SPEEDS = {
    "steady": lambda step: 0.1,
    "slower when decided": lambda step: 0.1 if step < 420 else 0.2,
    "faster when decided": lambda step: 0.1 if step < 420 else 0.06,
    "slower near the end": lambda step: 0.1 if step < 800 else 0.15,
    "every second minute": lambda step: 0.07 if step // 150 % 2 else 0.13,
    "a stall": lambda step: 0.1 + 8.0 * (step == 600),
}


@pytest.mark.parametrize("speed", SPEEDS)
@pytest.mark.parametrize("score", [0.0, 0.002])
def test_run_ends_with_its_budget_whatever_the_machine_does(speed, score):
    machine = Machine(SPEEDS[speed], lambda tokens: score * tokens, seconds_of_save=0.05)
    end = run(machine, budget=100.0)
    assert end.step == len(machine.rates)
    assert 0.985 * 100 < end.elapsed_seconds < 1.015 * 100
    # The whole decay was done: the last rates are those of the last steps of some straight line.
    peak, last = machine.rates[10], machine.rates[-1]
    assert peak == 1.0
    assert last < 0.05
    assert max(a - b for a, b in zip(machine.rates, machine.rates[1:], strict=False)) < 0.05


@pytest.mark.parametrize("stalled", [2, 4, 6, 12, 30])
def test_a_stall_at_the_start_does_not_end_the_run(stalled):
    """Nor one that takes most of the time: the rest of it is used."""
    machine = Machine(lambda step: 7.0 if step == stalled else 0.02)
    end = run(machine, budget=10.0, warmup_steps=20)
    assert 9.7 < end.elapsed_seconds < 10.3
    assert machine.rates[-1] < 0.1


def test_time_that_runs_out_in_a_long_warmup_is_used():
    machine = Machine(lambda step: 0.1)
    end = run(machine, budget=10.0, warmup_steps=1000)
    assert 9.7 < end.elapsed_seconds < 10.3
    assert machine.rates == [(i + 1) / 1000 for i in range(end.step)]


@settings(max_examples=60, deadline=None)
@given(
    budget=st.floats(20, 300),
    speed=st.floats(0.02, 0.2),
    change=st.floats(0.5, 2.0),
    when=st.floats(0.0, 0.85),
    score=st.floats(0.0, 0.003),
    fraction=st.sampled_from([0.3, 0.6, 1.0]),
    save=st.floats(0.0, 0.5),
)
# Few slow steps: a third of a step for a batch would be far off, and no evaluation comes first.
@example(budget=20.0, speed=0.1875, change=2.0, when=0.0, score=0.0, fraction=0.3, save=0.0)
@example(budget=20.0, speed=0.1875, change=1.0, when=0.0, score=0.0, fraction=0.6, save=0.0)
def test_run_ends_with_its_budget(budget, speed, change, when, score, fraction, save):
    changed_at = 1000.0 + when * budget
    machine = Machine(
        lambda _: speed * (change if machine.now > changed_at else 1.0),
        lambda tokens: score * tokens,
        save,
    )
    end = run(machine, budget=budget, decay_fraction=fraction)
    # An evaluation or a checkpoint more or less is no part of a step.
    slack = 0.02 * budget + 4 * speed + 200 * score + 2 * save
    assert abs(end.elapsed_seconds - budget) < slack


@pytest.mark.parametrize("score", [0.0, 0.001, 0.004])
@pytest.mark.parametrize("fraction", [0.3, 0.6, 1.0])
def test_scoring_is_timed_before_its_guess_decides(score, fraction):
    """A batch of 20 tokens takes 0.1 s, so that of 1,000 tokens' loss 1.7 s are expected."""
    machine = Machine(lambda _: 0.1, lambda tokens: score * tokens)
    end = run(machine, budget=20.0, decay_fraction=fraction, evaluate_every=10_000)
    assert abs(end.elapsed_seconds - 20.0) < 0.3
    assert machine.rates[-1] < 0.05
    # Once for that, at the end as after any last step, and the whole.
    assert machine.scored == [200, 200, 1000]
    # The same steps without a clock, and without that look.
    decided = machine.decided[-1]
    again = Machine(lambda _: 0.1)
    run(
        again, steps=decided.steps, step_decisions=decided.step_decisions, decay_fraction=fraction,
        evaluate_every=10_000,
    )  # fmt: skip
    assert again.rates == machine.rates
    assert again.scored == [200, 1000]


def test_scoring_is_not_timed_where_it_is_known():
    known = Machine(lambda _: 0.1)
    run(known, budget=20.0, evaluate_every=10)
    assert len(known.scored) == -(-known.step // 10) + 1


def test_decisions_of_the_clock_repeat_the_run_without_it():
    """What `minitx train --config run.toml` does: the same rates, and no look at the clock."""
    first = Machine(SPEEDS["every second minute"], lambda tokens: 0.001 * tokens)
    run(first, budget=100.0)
    assert len(first.decided) >= 3
    decided = first.decided[-1]
    assert decided.steps == decided.step_decisions[-1][1]
    assert [event.name for event in first.events] == ["steps-settled"] * len(first.decided)
    again = Machine(SPEEDS["a stall"])
    run(again, steps=decided.steps, step_decisions=decided.step_decisions)
    assert again.rates == first.rates
    assert not again.decided


def test_resumed_run_keeps_what_was_decided_before_it_was_killed():
    """Decided after its last checkpoint, the number is not decided anew: run.toml has it."""
    decided = ((50, 125), (90, 110))
    machine = Machine(lambda _: 0.1)
    end = run(machine, budget=1000.0, steps=110, step_decisions=decided)
    assert [config.step_decisions[:2] for config in machine.decided] == [decided] * len(
        machine.decided
    )
    assert all(config.step_decisions[2][0] > 90 for config in machine.decided)
    whole = rate_factor(config(warmup_steps=5, step_decisions=decided), 89, 110)
    assert machine.rates[89] == whole
    assert end.step >= 110


@pytest.mark.parametrize("evaluate_every", [40, 10_000])
@pytest.mark.parametrize("closing", [1000, 50_000, 10**6])
def test_time_is_kept_for_what_is_scored_after_the_last_step(closing, evaluate_every):
    """Of a holdout of a million tokens, which in all takes five times the budget."""
    machine = Machine(lambda _: 0.1, lambda tokens: 5e-4 * tokens, closing=closing)
    end = run(machine, budget=100.0, n_holdout=10**6, evaluate_every=evaluate_every)
    assert machine.scored[-1] == end.final_holdout_tokens == closing
    if closing < 10**6:
        assert abs(end.elapsed_seconds - 100.0) < 1.5
        assert f"scoring {closing:,} tokens of the holdout" in machine.phases
    else:
        assert end.elapsed_seconds > 500.0
        assert "scoring the whole holdout" in machine.phases


def test_run_without_a_holdout_ends_with_its_budget():
    machine = Machine(lambda _: 0.05)
    end = run(machine, budget=60.0, n_holdout=0)
    assert abs(end.elapsed_seconds - 60.0) < 0.6


def test_a_sleep_in_the_middle_costs_the_clock_and_not_the_plan():
    """The run is the one that it would have been: the same decisions, the same rates."""
    ends, machines = [], []
    for asleep in (0.0, 60.0):
        machine = Machine(None, lambda tokens: 1e-4 * tokens, seconds_of_save=0.05)
        machine.seconds_of_step = lambda step, a=asleep: 0.1 + a * (step == 250)
        awake = AwakeClock(lambda m=machine: m.now)
        ends.append(run(machine, budget=40.0, now=awake))
        machines.append(machine)
        assert machine.now - 1000.0 == pytest.approx(40.0 + asleep, abs=0.5)
        assert awake.slept == pytest.approx(asleep, abs=0.2)
    through, asleep = machines
    assert len(asleep.rates) == pytest.approx(len(through.rates), abs=2)
    assert ends[1].elapsed_seconds == pytest.approx(40.0, abs=0.4)
    assert asleep.rates[-1] < 0.02
    (told,) = [event for event in asleep.events if event.name == "slept"]
    assert told.step == 250
    assert "60 s" in told.message
    assert not [event for event in through.events if event.name == "slept"]


def test_a_slow_sample_at_the_end_is_reckoned_with():
    """As it is where others are busy, when no evaluation came before."""
    machine = Machine(lambda _: 0.1, lambda tokens: 1e-5 * tokens, seconds_of_sample=2.0)
    end = run(machine, budget=20.0, evaluate_every=10_000)
    assert end.elapsed_seconds == pytest.approx(20.0, abs=0.4)


@pytest.mark.parametrize("evaluate_every", [40, 100])
@pytest.mark.parametrize("start", [2.0, 3.5, 5.0, 6.5, 8.0])
def test_what_a_busy_moment_cut_is_lengthened_again(start, evaluate_every):
    """Also where the holdout was scored in it, on which the closing score was reckoned."""
    machine = Machine(None)

    def slower():
        return 8.0 if start <= machine.now - 1000.0 < start + 0.5 else 1.0

    machine.seconds_of_step = lambda step: 0.01 * slower()
    machine.seconds_of_score = lambda tokens: 2.5e-4 * tokens * slower()
    end = run(machine, budget=10.0, evaluate_every=evaluate_every)
    assert end.elapsed_seconds == pytest.approx(10.0, abs=0.25)
    assert machine.rates[-1] < 0.02
