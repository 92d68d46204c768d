"""Loggers beside `metrics.jsonl`: what they get, and that none of them stops a run."""

import itertools
import json
import logging
import math
import os
import struct
import sys
import threading
import types
from dataclasses import replace

import pytest
from reports import evaluation, step_report
from small_runs import TINY_MODEL, TINY_TRAIN

from minitx.errors import BadInputError
from minitx.training.logging import LOGGERS, GuardedLogger, required_loggers
from minitx.training.logging.figures import FigureLogger, kept_id
from minitx.training.logging.metrics_file import read_metrics
from minitx.training.observer import Event, HealthReport
from minitx.workflows.resume import ResumeRequest, resume
from minitx.workflows.train import TrainRequest, train

NAMES = ("mlflow", "tensorboard", "trackio", "wandb")


class Recorder:
    """Stands for any package and its clients: takes every call, and keeps it."""

    def __init__(self, calls):
        self.calls, self.config, self.entities = calls, {}, self

    def __getattr__(self, name):
        if name == "params":  # of a new run in MLflow
            return {}
        if name in ("info", "data"):
            return self

        def call(*arguments, **named):
            self.calls.append((name, arguments, named))
            return arguments if name == "Metric" else self

        return call


@pytest.fixture
def packages(monkeypatch):
    calls = []
    for name in ("mlflow", "mlflow.entities", "trackio", "wandb"):
        monkeypatch.setitem(sys.modules, name, Recorder(calls))
    board = types.SimpleNamespace(SummaryWriter=Recorder(calls).writer)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", board)
    monkeypatch.setattr("minitx.training.logging.wandb_run._has_key", lambda: False)
    for name in ("WANDB_MODE", "WANDB_PROJECT", "TRACKIO_PROJECT", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    return calls


def figures_in(calls):
    """Every figure that reached a package, with its step."""
    found = {}
    for name, arguments, named in calls:
        if name == "add_scalar":
            found[arguments[0]] = (arguments[1], arguments[2])
        elif name == "Metric":
            found[arguments[0]] = (arguments[1], arguments[3])
        elif name == "log":
            values = dict(arguments[0])
            step = named["step"] if "step" in named else values.pop("step")
            found |= {key: (value, step) for key, value in values.items()}
    return found


@pytest.mark.parametrize("name", NAMES)
def test_each_gets_every_figure_under_the_same_name(name, packages, tmp_path):
    logger = LOGGERS.get(name)(tmp_path, 0)
    logger.observe(step_report(3, loss=math.inf))
    logger.observe(replace(evaluation(4, loss=1.5), old_holdout_loss=2.5))
    logger.observe(HealthReport(5, {"blocks.0": 0.25}, {"blocks.0": 0.001}))
    logger.observe(Event(6, "plateau", "warning", "flat", "wait"))
    logger.close()
    found = figures_in(packages)
    assert found["train/loss"] == (math.inf, 3)
    assert found["train/learning_rate"] == (1e-3 / 3, 3)
    assert found["holdout/loss"] == (1.5, 4)
    assert found["holdout/old_loss"] == (2.5, 4)
    assert found["holdout/bits_per_byte"] == (1.5 / math.log(2), 4)
    assert found["health/gradient_norm/blocks.0"] == (0.25, 5)
    assert found["health/update_ratio/blocks.0"] == (0.001, 5)
    texts = str([call for call in packages if call[0] in ("log", "log_text", "add_text")])
    assert "KING:" in texts
    assert "warning: flat. wait" in texts
    assert packages[-1][0] in ("close", "finish", "set_terminated")


@pytest.mark.parametrize("name", ["mlflow", "trackio", "wandb"])
def test_settings_are_noted_and_nothing_of_the_text_or_its_place(name, packages, tmp_path, verses):
    request = TrainRequest(
        data={"corpus": (str(verses),)}, model=TINY_MODEL, train={**TINY_TRAIN, "steps": 2},
        out=tmp_path / "run", loggers=(name,),
    )  # fmt: skip
    train(request, [])
    if name == "mlflow":
        noted = {call[1][1]: call[1][2] for call in packages if call[0] == "log_param"}
    elif name == "trackio":
        noted = LOGGERS.get(name)(tmp_path / "run", 0)._run.config
    else:
        noted = sys.modules["wandb"].config or next(
            call[1][0] for call in packages if call[0] == "update"
        )
    assert noted["model.d_model"] == 16
    assert noted["train.seed"] == 1337
    assert str(verses) not in str(noted)
    assert str(tmp_path) not in str(noted)


def test_a_resumed_run_goes_on_where_it_was_logged(packages, tmp_path):
    made = iter(("first", "second"))
    assert kept_id(tmp_path, "wandb", lambda: next(made)) == "first"
    assert kept_id(tmp_path, "wandb", lambda: next(made)) == "first"
    assert kept_id(tmp_path, "trackio", lambda: next(made)) == "second"
    (tmp_path / "loggers.json").write_text("{torn")
    assert kept_id(tmp_path, "wandb", lambda: "new") == "new"
    LOGGERS.get("wandb")(tmp_path, 10)
    (init,) = [named for name, _, named in packages if name == "init"]
    assert (init["id"], init["resume"], init["mode"]) == ("new", "allow", "offline")


@pytest.mark.parametrize("name", NAMES)
def test_one_whose_package_is_missing_is_refused_before_the_text_is_read(name, monkeypatch, inside):
    for module in (name, "torch.utils.tensorboard"):
        monkeypatch.setitem(sys.modules, module, None)
    told = f'--log-to {name} needs .*pip install "minitx\\[{name}\\]"'
    with pytest.raises(BadInputError, match=told):
        LOGGERS.get(name)(inside, 0)
    monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr(FigureLogger, "load", classmethod(lambda cls: LOGGERS.get("nothing")))
    with pytest.raises(BadInputError):
        train(TrainRequest({"corpus": ("none.txt",)}, {}, {}, {}, None, loggers=(name,)), [])
    assert os.listdir() == []


def test_names_are_checked_and_taken_once():
    assert required_loggers(["tensorboard", "tensorboard"]) == ("tensorboard",)
    with pytest.raises(BadInputError, match="written in every run"):
        required_loggers(["metrics"])
    with pytest.raises(BadInputError, match="logger is 'wandbb'"):
        required_loggers(["wandbb"])


# ---- failures ------------------------------------------------------------------------------------


class Failing(FigureLogger):
    """Fails at an instant, with an error of several lines."""

    at = ""
    hangs = None  # or an event that it waits for instead

    def __init__(self, run, first_step):
        self.fail("start")

    def fail(self, instant):
        if instant == self.at:
            if self.hangs:
                self.hangs.wait()
                return
            raise RuntimeError("no\nnetwork\x1b[31m")

    def settings(self, values):
        self.fail("settings")

    def figures(self, step, values):
        self.fail(f"step {step}")

    def text(self, step, name, text):
        self.fail("text")

    def close(self):
        self.fail("close")


@pytest.fixture
def failing(monkeypatch):
    LOGGERS.names()
    monkeypatch.setitem(LOGGERS._kinds, "failing", Failing)
    return lambda at: monkeypatch.setattr(Failing, "at", at)


def request_for(verses, out, steps=6, loggers=("failing",)):
    return TrainRequest(
        data={"corpus": (str(verses),)}, model=TINY_MODEL, out=out, loggers=loggers,
        train={**TINY_TRAIN, "steps": steps, "evaluate_every": 3, "checkpoint_every": 3},
    )  # fmt: skip


def lines_of(run):
    return [{**line, "timing": None} for line in read_metrics(run / "metrics.jsonl")]


@pytest.fixture(scope="module")
def untouched(tmp_path_factory, verses):
    run = tmp_path_factory.mktemp("untouched") / "run"
    train(request_for(verses, run, loggers=()), [])
    return lines_of(run)


@pytest.mark.parametrize("at", ["start", "settings", "step 3", "step 6", "text", "close"])
def test_a_logger_that_fails_stops_no_run_and_is_told_of_once(
    at, failing, untouched, tmp_path, verses, caplog
):
    failing(at)
    run = tmp_path / "run"
    with caplog.at_level(logging.WARNING, "minitx"):
        assert train(request_for(verses, run), []).end.reason == "finished"
        assert lines_of(run) == untouched
        told = [record.getMessage() for record in caplog.records]
        assert len(told) == 1
        assert told[0].startswith("warning: failing failed, and notes nothing from here on")
        assert "RuntimeError: no network" in told[0]
        # The same where it goes on.
        caplog.clear()
        end = resume(ResumeRequest(run, {"steps": 9}, loggers=("failing",)), []).end
        assert (end.step, end.reason) == (9, "finished")
        again = 0 if at in ("step 3", "step 6") else 1
        assert len(caplog.records) == again


@pytest.mark.parametrize(
    ("at", "what"),
    [
        ("start", "did not begin within 0.2 s"), ("settings", "is 2 events behind"),
        ("step 6", "did not end within 0.2 s"), ("close", "did not end within 0.2 s"),
    ],
)  # fmt: skip
def test_a_logger_that_hangs_keeps_no_run_waiting(
    at, what, failing, untouched, tmp_path, verses, caplog, monkeypatch
):
    failing(at)
    monkeypatch.setattr(Failing, "hangs", threading.Event())
    monkeypatch.setattr("minitx.training.logging.PATIENCE", 0.2)
    if "behind" in what:
        monkeypatch.setattr("minitx.training.logging._WAITING", 2)
    run = tmp_path / "run"
    with caplog.at_level(logging.WARNING, "minitx"):
        assert train(request_for(verses, run), []).end.reason == "finished"
    assert lines_of(run) == untouched
    told = f"warning: failing {what}, and notes nothing from here on; the run goes on"
    assert [record.getMessage() for record in caplog.records] == [told]
    Failing.hangs.set()


def test_what_refuses_before_the_run_has_begun_still_does(tmp_path, monkeypatch):
    def refuse(run, first_step):
        raise BadInputError("no", "Do")

    LOGGERS.names()
    monkeypatch.setitem(LOGGERS._kinds, "refusing all", refuse)
    with pytest.raises(BadInputError):
        GuardedLogger("refusing all", tmp_path, 0)


def test_it_is_told_of_once_in_several_processes_and_on_resume(inside, verses, minitx_process):
    """The package itself fails, as it would without a network."""
    (inside / "broken").mkdir()
    (inside / "broken/wandb.py").write_text(
        "class Settings:\n    def __init__(self, **named): pass\n"
        "class Run:\n"
        "    class config:\n        update = staticmethod(lambda *a, **n: None)\n"
        "    define_metric = finish = lambda self, *a, **n: None\n"
        "    def log(self, values): raise ConnectionError('no network')\n"
        "def init(**named): return Run()\n"
    )
    path = f"{inside / 'broken'}{os.pathsep}{os.pathsep.join(sys.path)}"
    env = {**os.environ, "PYTHONPATH": path}
    sizes = ["--layers", 1, "--heads", 1, "--d-model", 16, "--context", 16, "--batch-size", 2]
    command = ["train", verses, *sizes, "--steps", 4, "--log-every", 1, "--out", "run"]
    several = [*command, "--processes", 2, "--log-to", "wandb"]
    done = minitx_process(*several, env=env, cwd=inside)
    assert done.code == 0, done.err
    said = "warning: wandb failed, and notes nothing from here on; the run goes on"
    assert done.err.count("warning: wandb") == done.err.count(said) == 1
    assert json.loads((inside / "run/loggers.json").read_text())["wandb"]
    done = minitx_process("resume", "run", "--steps", 6, "--log-to", "wandb", env=env, cwd=inside)
    assert done.code == 0, done.err
    assert done.err.count(said) == 1


# ---- the packages themselves, where they are installed -------------------------------------------


def trained_with(name, tmp_path, verses):
    out = tmp_path / "run"
    train(request_for(verses, out, loggers=(name,)), [])
    resume(ResumeRequest(out, {"steps": 9}, loggers=(name,)), [])
    evaluations = [line for line in read_metrics(out / "metrics.jsonl", ("evaluation",))
                   if line["kind"] == "evaluation"]  # fmt: skip
    return out, {line["step"]: line["holdout_loss"] for line in evaluations}


def wandb_records(file):
    """Records of a `.wandb` file: a log of LevelDB's form, in blocks of 32 KiB, after 7 bytes."""
    from wandb.proto import wandb_internal_pb2

    data, at, message = file.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        message += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(message)
            yield record
            message = b""


def test_wandb_offline_reads_back(tmp_path, verses, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    out, losses = trained_with("wandb", tmp_path, verses)
    files = sorted((out / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len(files) == 2
    assert len({file.name for file in files}) == 1
    found = {}
    for record in itertools.chain.from_iterable(map(wandb_records, files)):
        items = {item.key or ".".join(item.nested_key): item.value_json
                 for item in record.history.item}  # fmt: skip
        if "holdout/loss" in items:
            found[int(items["step"])] = float(items["holdout/loss"])
    assert found == losses
    assert wandb.run is None


def test_trackio_reads_back(tmp_path, verses, monkeypatch, capfd):
    pytest.importorskip("trackio")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.setattr("trackio.utils.TRACKIO_DIR", tmp_path / "trackio")
    for module in list(sys.modules):
        if module.startswith("trackio"):
            monkeypatch.delitem(sys.modules, module)
    _, losses = trained_with("trackio", tmp_path, verses)
    assert "rackio" not in capfd.readouterr().out
    import sqlite3

    with sqlite3.connect(tmp_path / "trackio/minitx.db") as database:
        rows = [(step, json.loads(values)) for step, values in
                database.execute("select step, metrics from metrics")]  # fmt: skip
    assert {step: row["holdout/loss"] for step, row in rows if "holdout/loss" in row} == losses


def test_mlflow_reads_back(tmp_path, verses, monkeypatch):
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path / 'mlruns'}")
    _, losses = trained_with("mlflow", tmp_path, verses)
    (written,) = tmp_path.glob("mlruns/*/*/metrics/holdout/loss")
    points = [line.split() for line in written.read_text().splitlines()]
    assert {int(step): float(value) for _, value, step, *_ in points} == losses
