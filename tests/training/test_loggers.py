import json
import math
import os
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest
from reports import evaluation, step_report

from minitx.errors import BadInputError
from minitx.training.logging.metrics_file import (
    MetricsFile,
    metrics_line,
    read_metrics,
    repair_metrics,
)
from minitx.training.logging.tensorboard import TensorBoardLogger
from minitx.training.observer import (
    CheckpointSaved,
    Event,
    RunEnd,
    perplexity,
)


def end(step, seconds=0.0):
    return RunEnd(step, "finished", 4, 2.0, 2.1, 12.5 + seconds, 8192 * step, 700)


def write_run(path, seconds=0.0, first=1, last=6, with_end=True):
    """What a loop tells in steps `first` to `last`, with a second evaluation at the end."""
    metrics = MetricsFile(path, first - 1)
    for step in range(first, last + 1):
        metrics.observe(step_report(step, loss=7.0 / step, seconds=seconds))
        if step % 3 == 0:
            metrics.observe(evaluation(step, loss=6.0 / step))
            metrics.observe(Event(step, "plateau", "warning", "no fall in 3 steps", "wait"))
            metrics.observe(CheckpointSaved(step, path.parent))
    if with_end:
        metrics.observe(end(last, seconds))
    metrics.close()


def without_timing(path):
    return [
        {key: value for key, value in record.items() if key != "timing"}
        for record in read_metrics(path)
    ]


def test_a_line_has_these_keys_and_full_floats(tmp_path):
    path = tmp_path / "metrics.jsonl"
    loss = 1 / 3
    metrics = MetricsFile(path)
    metrics.observe(step_report(3, loss=loss))
    metrics.observe(evaluation(3, loss=loss))
    metrics.observe(Event(3, "loss-spike", "warning", "rose to 9", "lower it", "bad text"))
    metrics.observe(end(3))
    metrics.close()
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    assert lines == [
        {
            "kind": "step",
            "step": 3,
            "loss": loss,
            "perplexity": math.exp(loss),
            "gradient_norm": 3.5,
            "learning_rate": 1e-3 / 3,
            "tokens": 24576,
            "timing": {"tokens_per_second": 41_000.5, "elapsed_seconds": 1.0},
        },
        {
            "kind": "evaluation",
            "step": 3,
            "train_loss": loss - 0.1,
            "holdout_loss": loss,
            "holdout_perplexity": math.exp(loss),
            "holdout_bits_per_byte": loss / math.log(2),
            "is_best": True,
            "sample_prompt": "KING:\n",
            "sample": 'wär\n"so" \x1b[31m ☃',
        },
        {
            "kind": "event",
            "step": 3,
            "name": "loss-spike",
            "severity": "warning",
            "message": "rose to 9",
            "cause": "bad text",
            "fix": "lower it",
        },
        {
            "kind": "end",
            "step": 3,
            "reason": "finished",
            "best_step": 4,
            "best_holdout_loss": 2.0,
            "final_holdout_loss": 2.1,
            "final_holdout_tokens": 700,
            "tokens": 24576,
            "timing": {"elapsed_seconds": 12.5},
        },
    ]
    assert repr(loss) in path.read_text("utf-8")


def test_outside_timing_nothing_depends_on_the_clock(tmp_path):
    write_run(tmp_path / "a.jsonl")
    write_run(tmp_path / "b.jsonl", seconds=17.25)
    assert (tmp_path / "a.jsonl").read_bytes() != (tmp_path / "b.jsonl").read_bytes()
    assert without_timing(tmp_path / "a.jsonl") == without_timing(tmp_path / "b.jsonl")


@pytest.mark.parametrize(
    ("value", "text"), [(math.nan, "NaN"), (math.inf, "Infinity"), (-math.inf, "-Infinity")]
)
def test_a_number_that_is_none_is_valid_json_and_reads_back(tmp_path, value, text):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    path = tmp_path / "metrics.jsonl"
    metrics = MetricsFile(path)
    metrics.observe(step_report(1, loss=value))
    metrics.close()
    record = json.loads(path.read_text(), parse_constant=refuse)
    assert record["loss"] == text
    assert repr(float(record["loss"])) == repr(value)


def test_a_lone_surrogate_is_escaped():
    line = metrics_line({"kind": "event", "step": 0, "message": "a\udc80b"})
    assert json.loads(line.decode("utf-8"))["message"] == "a\udc80b"


def test_perplexity_of_a_loss_too_large_for_a_float(tmp_path):
    assert perplexity(0.0) == 1.0
    assert perplexity(1e6) == math.inf
    assert math.isnan(perplexity(math.nan))
    path = tmp_path / "metrics.jsonl"
    metrics = MetricsFile(path)
    metrics.observe(step_report(1, loss=1e6))
    metrics.close()
    assert next(read_metrics(path))["perplexity"] == "Infinity"


def test_repair_at_every_byte_cut(tmp_path, monkeypatch):
    # Tens of thousands of disk flushes would show nothing more.
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    whole = tmp_path / "whole.jsonl"
    write_run(whole)
    data = whole.read_bytes()
    lines = data.splitlines(keepends=True)
    ends = [sum(map(len, lines[: i + 1])) for i in range(len(lines))]
    assert len(lines) == 11
    for cut in range(len(data) + 1):
        for first_step in (0, 3, 4, 100):
            path = tmp_path / "metrics.jsonl"
            path.write_bytes(data[:cut])
            MetricsFile(path, first_step).close()
            # A line is there if all of it is, but for the newline.
            expected = [
                line
                for line, stop in zip(lines, ends, strict=True)
                if cut >= stop - 1
                and json.loads(line)["step"] <= first_step
                and json.loads(line)["kind"] != "end"
            ]
            assert path.read_bytes() == b"".join(expected), (cut, first_step)
    assert not list(tmp_path.glob("*.part"))


def test_a_run_cut_and_resumed_has_the_same_lines_as_the_uncut_one(tmp_path):
    write_run(tmp_path / "uncut.jsonl")
    uncut = (tmp_path / "uncut.jsonl").read_bytes()
    path = tmp_path / "metrics.jsonl"
    write_run(path, last=5, with_end=False)
    path.write_bytes(path.read_bytes()[:-20])
    write_run(path, first=4)
    assert path.read_bytes() == uncut


def test_repair_drops_noise_between_good_lines_and_counts_it(tmp_path):
    path = tmp_path / "metrics.jsonl"
    good = [metrics_line({"kind": "step", "step": step, "loss": 1.0}) for step in (1, 2)]
    noise = [
        b"\x00\x00\x00\n",
        b"[1]\n",
        b'{"kind": "step"}\n',
        b'{"kind": "step", "step": true}\n',
        b'{"kind": "step", "step": 1.5}\n',
        b"[" * 100_000 + b"\n",
        b"\xff\xfe\n",
    ]
    path.write_bytes(good[0] + b"".join(noise) + good[1])
    assert [record["step"] for record in read_metrics(path)] == [1, 2]
    assert repair_metrics(path, 2) == len(noise)
    assert path.read_bytes() == b"".join(good)
    assert repair_metrics(path, 2) == 0
    assert repair_metrics(tmp_path / "missing.jsonl", 2) == 0
    assert not (tmp_path / "missing.jsonl").exists()


def test_repair_replaces_the_file_in_one_rename_after_a_flush(tmp_path, monkeypatch):
    path = tmp_path / "metrics.jsonl"
    write_run(path)
    before, calls = path.read_bytes(), []
    replace, fsync = Path.replace, os.fsync

    def watched_replace(self, target):
        calls.append("replace")
        assert path.read_bytes() == before, "the old file was touched before the rename"
        return replace(self, target)

    def watched_fsync(handle):
        calls.append("fsync")
        return fsync(handle)

    monkeypatch.setattr(Path, "replace", watched_replace)
    monkeypatch.setattr(os, "fsync", watched_fsync)
    repair_metrics(path, 3)
    assert calls == ["fsync", "replace", "fsync"]


def test_a_failed_repair_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "metrics.jsonl"
    write_run(path)
    before = path.read_bytes()

    def fail(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(BadInputError, match="No space left"):
        MetricsFile(path, 3)
    assert path.read_bytes() == before
    assert not list(tmp_path.glob("*.part"))


def test_an_intact_file_is_not_rewritten(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write_run(path, with_end=False)
    before = path.stat().st_ino
    MetricsFile(path, 6).close()
    assert path.stat().st_ino == before


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL")
def test_a_killed_run_loses_at_most_the_last_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    program = (
        "import sys; from pathlib import Path\n"
        "from minitx.training.logging.metrics_file import MetricsFile\n"
        "from minitx.training.observer import StepReport\n"
        "metrics = MetricsFile(Path(sys.argv[1]))\n"
        "for step in range(1, 10**7):\n"
        "    metrics.observe(StepReport(step, 10**7, 1.0, 1.0, 1.0, step, 1.0, 1.0, 1.0))\n"
        "    if step == 200: print('going', flush=True)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "going\n"
    time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    lines = path.read_bytes().split(b"\n")
    steps = [json.loads(line)["step"] for line in lines[:-1]]
    assert len(steps) >= 200
    assert steps == list(range(1, len(steps) + 1))


def test_loggers_import_neither_torch_nor_rich():
    program = (
        "import sys, minitx.training.logging.metrics_file\n"
        "print(sorted({'torch', 'rich', 'tensorboard'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_an_unwritable_place_is_one_clear_error(tmp_path):
    with pytest.raises(BadInputError, match=r"metrics\.jsonl can't be written: .*directory"):
        MetricsFile(tmp_path / "missing" / "metrics.jsonl")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_is_one_clear_error():
    metrics = MetricsFile.__new__(MetricsFile)
    metrics._path = Path("/dev/full")
    metrics._file = metrics._path.open("wb", buffering=0)
    with pytest.raises(BadInputError, match="No space left on device"):
        metrics.observe(step_report(1))
    metrics.close()
    metrics.close()
    with pytest.raises(ValueError, match="closed"):
        metrics.observe(step_report(1))


def test_tensorboard_absent_is_one_clear_error(tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("torch.utils.tensorboard")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(BadInputError) as caught:
        TensorBoardLogger(tmp_path)
    assert str(caught.value) == (
        "--log-to tensorboard needs the package tensorboard, which is not installed. "
        'Install it with: pip install "minitx[tensorboard]"'
    )
    assert caught.value.exit_code == 2


class RecordingWriter:
    def __init__(self, directory, purge_step=None):
        self.directory, self.purge_step = directory, purge_step
        self.scalars, self.texts, self.closed = [], [], False

    def add_scalar(self, name, value, step):
        self.scalars.append((name, value, step))

    def add_text(self, name, text, step):
        self.texts.append((name, text, step))

    def close(self):
        self.closed = True


def test_tensorboard_gets_each_figure(tmp_path, monkeypatch):
    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = RecordingWriter
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    logger = TensorBoardLogger(tmp_path, first_step=2)
    writer = logger._writer
    logger.observe(step_report(3))
    logger.observe(evaluation(3))
    logger.observe(Event(3, "plateau", "warning", "flat", "wait"))
    logger.close()
    directory = str(tmp_path / "tensorboard")
    assert (writer.directory, writer.purge_step, writer.closed) == (directory, 3, True)
    assert {name: value for name, value, _ in writer.scalars} == {
        "train/loss": 2.345,
        "train/perplexity": math.exp(2.345),
        "train/gradient_norm": 3.5,
        "train/learning_rate": 1e-3 / 3,
        "timing/tokens_per_second": 41_000.5,
        "holdout/loss": 2.0,
        "holdout/perplexity": math.exp(2.0),
        "holdout/bits_per_byte": 2.0 / math.log(2),
    }
    assert {step for _, _, step in writer.scalars} == {3}
    assert writer.texts[0] == ("sample", '    KING:\n    wär\n    "so" \x1b[31m ☃', 3)
    assert writer.texts[1] == ("event/plateau", "warning: flat. wait", 3)
    assert TensorBoardLogger(tmp_path)._writer.purge_step is None


def test_tensorboard_files_read_back(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoardLogger(tmp_path)
    for step in range(1, 4):
        logger.observe(step_report(step, loss=4.0 / step))
    logger.close()
    again = TensorBoardLogger(tmp_path, first_step=2)
    again.observe(step_report(3, loss=9.0))
    again.close()
    accumulator = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    losses = [(event.step, event.value) for event in accumulator.Scalars("train/loss")]
    assert losses == [(1, 4.0), (2, 2.0), (3, 9.0)]
