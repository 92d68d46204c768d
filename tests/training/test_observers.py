"""Observers and loggers from outside the package see a run, and events that nobody knew before."""

import json
from dataclasses import dataclass, replace

import pytest
from small_runs import TINY_MODEL, TINY_TRAIN

from minitx.errors import BadInputError
from minitx.training.logging import LOGGERS
from minitx.training.logging.metrics_file import MetricsFile, read_metrics
from minitx.training.observer import (
    OBSERVERS,
    Observers,
    Phase,
    RunEnd,
    StepReport,
    TrainingEvent,
    TrainingObserver,
)
from minitx.workflows.train import TrainRequest, train


@pytest.fixture
def registered():
    """Registers a class in a registry for the time of a test."""
    added = []

    def register(registry, name, kind):
        registry.register(name)(kind)
        added.append((registry, name))

    yield register
    for registry, name in added:
        del registry._kinds[name]


class Losses(TrainingObserver):
    """A logger: a line of text for each logged step."""

    def __init__(self, run, first_step):
        self.file = (run / "losses.txt").open("a" if first_step else "w")

    def on_step(self, report: StepReport):
        self.file.write(f"{report.step} {report.loss!r}\n")

    def close(self):
        self.file.close()


class Counter(TrainingObserver):
    """An observer of every run."""

    def __init__(self, made):
        self.kinds, self.closed = [], False
        made.append(self)

    def observe(self, event):
        self.kinds.append(event.kind)

    def close(self):
        self.closed = True


def test_a_logger_and_an_observer_from_outside_see_a_run(tmp_path, verses, registered):
    registered(LOGGERS, "losses", Losses)
    made = []
    registered(OBSERVERS, "counter", lambda: Counter(made))
    request = TrainRequest(
        data={"corpus": (str(verses),)}, model=TINY_MODEL, train=TINY_TRAIN, out=tmp_path / "run",
        loggers=("losses",),
    )  # fmt: skip
    run = train(request, []).run
    records = list(read_metrics(run / "metrics.jsonl"))
    steps = [record for record in records if record["kind"] == "step"]
    assert len(steps) == 11
    written = [f"{record['step']} {record['loss']!r}" for record in steps]
    assert (run / "losses.txt").read_text().splitlines() == written
    (counter,) = made
    assert counter.closed
    assert [kind for kind in counter.kinds if kind not in ("start", "phase", "checkpoint")] == [
        record["kind"] for record in records
    ]
    assert {"start", "phase", "checkpoint"} <= set(counter.kinds)
    with pytest.raises(BadInputError, match=r"logger is 'loses'.*losses"):
        train(replace(request, out=tmp_path / "other", loggers=("loses",)), [])
    assert not (tmp_path / "other").exists()


@dataclass(frozen=True)
class Weather(TrainingEvent):
    kind = "weather"

    step: int
    degrees: float


def test_an_event_that_nobody_knows_reaches_whoever_wants_it(tmp_path):
    class Thermometer(TrainingObserver):
        def on_weather(self, weather):
            degrees.append(weather.degrees)

    degrees, metrics = [], MetricsFile(tmp_path / "metrics.jsonl")
    observers = Observers([Thermometer(), TrainingObserver(), metrics])
    observers.observe(Weather(3, 21.5))
    observers.observe(Phase("waiting"))
    observers.observe(RunEnd(4, "finished", 4, 2.0, 2.0, 1.0, 100, 10))
    metrics.close()
    assert degrees == [21.5]
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines[0] == {"kind": "weather", "step": 3, "degrees": 21.5}
    assert [line["kind"] for line in lines] == ["weather", "end"]
