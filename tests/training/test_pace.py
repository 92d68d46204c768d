import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minitx.config import TrainConfig
from minitx.training.pace import settle_steps, steps_ending_at
from minitx.training.schedule import decay_start, rate_factor


def config(**values):
    return TrainConfig(**{"steps": 1, "batch_size": 1, "learning_rate": 1.0, **values})


def simulate(train, budget, seconds_per_step, start_up=0.0):
    """Run a clock instead of a model; return the settled steps and when the last one ends."""
    step, now = 0, start_up
    while True:
        step += 1
        now += seconds_per_step(step)
        steps = settle_steps(train, step, (now - start_up) / step, now, budget - now)
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
    settled, steps, end = simulate(train, budget, lambda _: speed)
    assert steps >= settled
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
def test_settled_run_is_the_run_that_steps_would_have_been(step, fraction, warmup, decay):
    """Until it is settled the rate ignores the number of steps; so must the settled schedule."""
    train = config(decay_fraction=fraction, warmup_steps=warmup, decay=decay)
    steps = steps_ending_at(train, step)
    assert decay_start(train, steps) >= min(step, steps)
    for earlier in range(max(0, step - 50), step):
        unsettled = min(1.0, (earlier + 1) / max(1, warmup))
        assert rate_factor(train, earlier, steps) == unsettled


def test_slower_machine_halfway_settles_sooner():
    train = config(decay_fraction=0.5, warmup_steps=5)
    steady = simulate(train, 100, lambda _: 0.1)
    slower = simulate(train, 100, lambda step: 0.1 if step < 300 else 0.3)
    assert slower[1] < steady[1]


def test_a_slow_start_settles_nothing():
    """One slow evaluation among the first steps says little about the rest."""
    train = config(decay_fraction=0.5, warmup_steps=2)
    _, steps, end = simulate(train, 10, lambda step: 1.0 if step == 3 else 0.01)
    assert steps > 500
    assert end < 11


def test_constant_rate_runs_until_time_is_up():
    train = config(decay="constant", warmup_steps=5)
    assert settle_steps(train, 50, 0.1, 5.0, 1.0) is None
    assert settle_steps(train, 50, 0.1, 5.0, -0.1) == 50


def test_first_steps_settle_nothing():
    assert settle_steps(config(), 1, 100.0, 100.0, 0.1) is None


@pytest.mark.parametrize("left", [0.0, 0.5, -3.0])
def test_time_that_runs_out_in_the_warmup_ends_the_run(left):
    train = config(warmup_steps=1000)
    assert settle_steps(train, 100, 1.0, 100.0, left) == 101


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
    settled, steps, _ = simulate(limited, budget, lambda _: speed)
    _, unlimited, _ = simulate(free, budget, lambda _: speed)
    assert steps == max(settled, min(unlimited, most))
    # Settled while the rate can still fall over its whole fraction.
    if decay == "linear" and steps == most < unlimited and most > 20:
        assert settled <= decay_start(limited, most) + 1
