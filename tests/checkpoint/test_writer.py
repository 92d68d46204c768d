import threading

import pytest
import torch
from safetensors.torch import load_file

from minitx.checkpoint import writer as writer_module
from minitx.checkpoint.manifest import verify
from minitx.checkpoint.new_run import create_run
from minitx.checkpoint.writer import CheckpointWriter, Snapshot, write_checkpoint
from minitx.errors import BadInputError


@pytest.fixture
def run(tmp_path):
    return create_run(tmp_path / "run", "x")


def snapshot(step, value=0.0, best_step=None):
    return Snapshot(
        step=step,
        best_step=best_step,
        files={"config.json": b"{}"},
        tensors={"model.safetensors": {"w": torch.full((3,), value)}},
    )


def test_checkpoint_is_whole_and_pointed_to(run):
    path = write_checkpoint(run, snapshot(1, 7.0, best_step=1), keep=2)
    assert verify(path) == 1
    assert run.best_step() == 1
    assert [(run.path / name).read_text() for name in ("last", "best")] == ["step-000001\n"] * 2
    assert load_file(path / "model.safetensors")["w"].tolist() == [7.0] * 3


def test_same_step_again_replaces(run):
    write_checkpoint(run, snapshot(1, 1.0), keep=2)
    path = write_checkpoint(run, snapshot(1, 2.0), keep=2)
    assert load_file(path / "model.safetensors")["w"][0] == 2.0
    assert [entry.name for entry in run.checkpoint_root.iterdir()] == ["step-000001"]


def test_keeps_the_newest_and_the_best(run):
    for step in range(1, 7):
        write_checkpoint(run, snapshot(step, best_step=2 if step > 1 else None), keep=2)
    assert run.steps() == [2, 5, 6]


STAGES = ["save_file", "manifest_bytes", "sync_file", "sync_directory", "_replace_directory"]


@pytest.mark.parametrize("stage", STAGES)
def test_failure_at_any_stage_leaves_the_checkpoint_before(run, monkeypatch, stage):
    write_checkpoint(run, snapshot(1, 1.0, best_step=1), keep=1)

    def refuse(*_args, **_named):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writer_module, stage, refuse)
    with pytest.raises(OSError, match="No space"):
        write_checkpoint(run, snapshot(2), keep=1)
    monkeypatch.undo()
    assert run.steps() in ([1], [1, 2])
    assert verify(run.usable_checkpoint("last")) == run.steps()[-1]
    assert verify(run.checkpoint(1)) == 1


def test_background_writer_tells_what_is_written(run):
    writer = CheckpointWriter(run, keep=2)
    writer.submit(snapshot(1))
    writer.submit(snapshot(2))
    writer.wait()
    assert [step for step, _ in writer.written()] == [1, 2]
    assert writer.written() == []


def test_background_writer_does_not_hold_up_the_caller(run, monkeypatch):
    release = threading.Event()
    real = writer_module.write_checkpoint

    def slow(*args):
        assert release.wait(10)
        return real(*args)

    monkeypatch.setattr(writer_module, "write_checkpoint", slow)
    writer = CheckpointWriter(run, keep=2)
    writer.submit(snapshot(1))  # returns although the disk is waiting
    assert run.steps() == []
    release.set()
    writer.wait()
    assert run.steps() == [1]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ValueError("odd")])
def test_background_failure_is_told_once_and_training_may_go_on(run, monkeypatch, error):
    writer = CheckpointWriter(run, keep=2)

    def refuse(*_args):
        raise error

    monkeypatch.setattr(writer_module, "write_checkpoint", refuse)
    writer.submit(snapshot(1))
    with pytest.raises(BadInputError, match="can't be written"):
        writer.wait()
    monkeypatch.undo()
    writer.submit(snapshot(2))
    writer.wait()
    assert run.steps() == [2]
