"""What a plan takes from the machine: measured once, and then the same plan, however busy it is."""

import dataclasses
import random

import pytest

from minitx.errors import BadInputError
from minitx.training import machine_speed
from minitx.training.observer import TrainingObserver
from minitx.workflows.train import TrainRequest, train


class Planned(TrainingObserver, Exception):  # noqa: N818
    """Ends a run before its first step, and keeps what it was told."""

    def __init__(self):
        self.phases = []

    def on_phase(self, phase):
        self.phases.append(phase.name)

    def on_start(self, start):
        self.start = start
        raise self


def plan(corpus, measure=False, **given):
    seen = Planned()
    with pytest.raises(Planned):
        train(TrainRequest(data={"corpus": (str(corpus),)}, train=given, measure=measure), [seen])
    return seen


@pytest.fixture
def noisy(monkeypatch, tmp_path):
    """A machine whose measurements lie so far apart; its list of them is given."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    draws, measured = random.Random(5), []

    def rate(compute, engine):
        measured.append(1.6e11 * draws.uniform(0.2, 1.2))
        return measured[-1]

    monkeypatch.setattr(machine_speed, "_rate", rate)
    return measured


def test_twenty_plans_on_a_noisy_clock_are_one(noisy, verses):
    plans = [plan(verses, budget_seconds=20.0) for _ in range(20)]
    first = dataclasses.replace(plans[0].start.config, data=None)
    assert all(dataclasses.replace(p.start.config, data=None) == first for p in plans)
    assert len(noisy) == 1
    assert [any("measuring" in name for name in p.phases) for p in plans] == [True] + [False] * 19
    assert "measured " in plans[-1].start.reasons["device"]
    # Were each measured anew, they would differ.
    anew = [plan(verses, measure=True, budget_seconds=20.0) for _ in range(10)]
    assert len(noisy) == 11
    assert any(dataclasses.replace(p.start.config, data=None) != first for p in anew)


def test_with_steps_nothing_is_measured_nor_told(noisy, verses):
    seen = plan(verses, steps=20)
    assert not noisy
    assert "device" not in seen.start.reasons
    with pytest.raises(BadInputError, match="nothing depends on that"):
        train(TrainRequest(train={"steps": 20}, measure=True), [])


def test_measure_is_an_option_of_the_command(minitx, inside, verses):
    done = minitx("train", verses, "--steps", "2", "--measure")
    assert done.code == 2
    assert "leave out --measure" in done.err
    assert not (inside / "runs").exists()
