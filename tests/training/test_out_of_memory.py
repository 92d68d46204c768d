"""Where a pass does not fit into memory, it is computed in parts: the batch stays the same."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from dataclasses import replace

import pytest
import torch
from small_runs import TINY_MODEL, TINY_TRAIN

from minitx.checkpoint.rundir import RunDirectory
from minitx.compute import Compute
from minitx.config import TrainConfig
from minitx.corpus.training_windows import NO_TARGET
from minitx.errors import BadInputError, is_out_of_memory
from minitx.model import Transformer
from minitx.training import gradients
from minitx.training.gradients import StepGradients
from minitx.training.observer import TrainingObserver
from minitx.workflows.resume import ResumeRequest, resume
from minitx.workflows.train import TrainRequest, train
from tests.processes.several import losses, metrics, text_file
from tests.small_models import SHAPE

CPU = Compute(torch.device("cpu"), torch.float32)
KINDS = (
    RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: "
                 "you tried to allocate 4096 bytes. Error code 12 (Cannot allocate memory)"),
    MemoryError("Unable to allocate 1.00 GiB for an array"),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
)  # fmt: skip


class Memory:
    """In which so many rows fit, from the nth pass on; plants the allocator's error else."""

    def __init__(self, monkeypatch, rows, error=KINDS[0], after=0, backward=False):
        self.rows, self.passes, self.tried = rows, 0, []
        original = gradients.loss_function

        def planted(*arguments):
            loss = original(*arguments)

            def of(ids, targets):
                self.passes += 1
                self.tried.append(len(ids))
                if self.passes > after and len(ids) > self.rows:
                    if backward:
                        # Some gradients are there by then.
                        loss(ids, targets).backward()
                    raise error
                return loss(ids, targets)

            return of

        monkeypatch.setattr(gradients, "loss_function", planted)


class Given(list):
    """Batches that are at hand, all of whose ids are targets."""

    answers = None


class Events(TrainingObserver):
    def __init__(self):
        self.told = []

    def on_event(self, event):
        self.told.append(event)


def request(verses, out, **given):
    keys = {**TINY_TRAIN, "steps": 12, "batch_size": 5, "accumulation": 2, "log_every": 1, **given}
    return TrainRequest(data={"corpus": (str(verses),)}, model=TINY_MODEL, train=keys, out=out)


@pytest.mark.parametrize("engine", ["plain", "native"])
@pytest.mark.parametrize("rows", [1, 2, 3, 4])
def test_gradients_are_those_of_the_whole_pass(monkeypatch, engine, rows):
    config = TrainConfig(
        steps=1, batch_size=7, accumulation=3, learning_rate=0.1, engine=engine
    )  # fmt: skip
    ids = torch.randint(29, (3, 7, 12), generator=torch.Generator().manual_seed(1))
    targets = ids.roll(-1, 2)
    targets[0, 1], targets[1, 4, :9] = NO_TARGET, NO_TARGET
    batches = Given(zip(ids, targets, strict=True))

    def computed():
        torch.manual_seed(3)
        model = Transformer(replace(SHAPE, dropout=0.0))
        step = StepGradients(model, batches, config, CPU)
        loss = step(0)
        return loss, [p.grad for p in model.parameters()], step.micro_batch_size

    expected, all_expected, size = computed()
    assert size == 0
    memory = Memory(monkeypatch, rows, backward=True)
    loss, found, size = computed()
    # Halved from 7: 4, 2, 1.
    assert size == {1: 1, 2: 2, 3: 2, 4: 4}[rows]
    assert max(memory.tried[-6:]) <= rows
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    for gradient, other in zip(found, all_expected, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("error", KINDS, ids=lambda error: type(error).__name__)
def test_a_run_goes_on_with_the_same_losses(monkeypatch, verses, tmp_path, error):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train(request(verses, whole), [])
    memory, events = Memory(monkeypatch, 3, error, after=8), Events()
    train(request(verses, cut), [events])
    expected, found = losses(whole), losses(cut)
    assert found.keys() == expected.keys()
    assert max(abs(found[key] / expected[key] - 1) for key in found) < 1e-6
    (told,) = [event for event in events.told if event.name == "out-of-memory"]
    assert told.step == 5
    assert "of a pass of 5 sequences at most 3 are computed at once" in told.message
    assert RunDirectory(cut).read_config().train.micro_batch_size == 3
    assert memory.tried.count(5) == 9
    # It is kept for what comes later, which tries no more than fits.
    resume(ResumeRequest(cut, {"steps": 15}), [events])
    assert memory.tried.count(5) == 9
    assert [line["kind"] for line in metrics(cut)].count("event") <= len(events.told)
    assert sum(event.name == "out-of-memory" for event in events.told) == 1


def test_a_size_that_was_given_is_kept_to(monkeypatch, verses, tmp_path):
    memory = Memory(monkeypatch, 99)
    train(request(verses, tmp_path / "run", micro_batch_size=2, steps=3), [])
    assert max(memory.tried) == 2


def test_what_does_not_fit_at_all_is_refused(monkeypatch, verses, tmp_path):
    Memory(monkeypatch, 0)
    with pytest.raises(BadInputError, match="one sequence at a time"):
        train(request(verses, tmp_path / "run"), [])


def test_another_error_is_not_taken_for_it(monkeypatch, verses, tmp_path):
    Memory(monkeypatch, 3, RuntimeError("shapes do not fit"))
    assert not is_out_of_memory(RuntimeError("shapes do not fit"))
    with pytest.raises(RuntimeError, match="shapes"):
        train(request(verses, tmp_path / "run"), [])


def test_what_runs_out_in_one_process_is_divided_in_all(tmp_path):
    plant = tmp_path / "plant.py"
    plant.write_text(
        textwrap.dedent("""
        import os, sys
        from minitx.training import gradients
        original = gradients.loss_function
        passes = 0
        def planted(*arguments):
            loss = original(*arguments)
            def of(ids, targets):
                global passes
                passes += 1
                if os.environ["RANK"] == "1" and passes > 7 and len(ids) > 2:
                    raise MemoryError
                if os.environ["RANK"] == "0" and passes > 10:
                    assert len(ids) <= 2
                return loss(ids, targets)
            return of
        gradients.loss_function = planted
        from minitx.__main__ import main
        main()
    """)
    )
    text, whole, cut = text_file(tmp_path), tmp_path / "whole", tmp_path / "cut"
    given = [
        "train", text, "--layers", 2, "--heads", 2, "--d-model", 32, "--context", 32, "--steps", 8,
        "--batch-size", 4, "--accumulation", 4, "--dtype", "float32", "--log-every", 1,
    ]  # fmt: skip
    in_two = ["-m", "torch.distributed.run", "--nproc-per-node", 2, plant]
    for out, start in ((whole, ["-m", "minitx"]), (cut, in_two)):
        done = subprocess.run(
            [sys.executable, *map(str, [*start, *given, "--out", out])],
            capture_output=True, text=True, timeout=300,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    expected, found = losses(whole), losses(cut)
    assert found.keys() == expected.keys()
    assert max(abs(found[key] / expected[key] - 1) for key in found) < 1e-6
    (told,) = [line for line in metrics(cut) if line.get("name") == "out-of-memory"]
    assert told["step"] == 4
    assert RunDirectory(cut).read_config().train.micro_batch_size == 2
