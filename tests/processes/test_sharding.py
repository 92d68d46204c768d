"""A sharded run is that of a whole model, and each process has its part of the memory."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_runs import TINY_MODEL, TINY_TRAIN

from minitx.checkpoint.rundir import RunDirectory
from minitx.errors import BadInputError
from minitx.training.sharding import require_shardable
from minitx.workflows.train import TrainRequest, train
from tests.processes.several import (
    SMALL,
    begin,
    digests,
    free_port,
    losses,
    metrics,
    minitx,
    text_file,
)

HERE = Path(__file__).parent
SHARDED = ("--shard", "--processes", 2)


def planted(plant, n, *arguments, code=0):
    """A run in so many processes in one of which something happens; what it wrote to stderr."""
    script = [HERE / "planted_run.py", *arguments]
    launcher = several(n) if n > 1 else []
    process = begin([sys.executable, *map(str, [*launcher, *script])], PLANT=plant)
    _, told = process.communicate(timeout=200)
    assert (process.returncode != 0) == (code != 0), told
    return told


def several(n):
    port = ("--master-port", free_port())
    return ["-m", "torch.distributed.run", "--nproc-per-node", n, *port]


def require_same(one, other, step):
    """The files of two checkpoints have the same tensors, but for rounding."""
    for file in ("model.safetensors", "optimizer.safetensors", "good_states.safetensors"):
        paths = [run / "checkpoints" / f"step-{step:06d}" / file for run in (one, other)]
        assert paths[0].exists() == paths[1].exists()
        if paths[0].exists():
            tensors, others = map(load_file, paths)
            assert tensors.keys() == others.keys()
            for name, tensor in tensors.items():
                torch.testing.assert_close(tensor, others[name], rtol=1e-3, atol=2e-5)


def require_close(one, other):
    assert one.keys() == other.keys()
    assert max(abs(one[key] / other[key] - 1) for key in one) < 1e-6


def earlier(run, copy):
    """A copy of a run that stands where its first 10 steps were done."""
    shutil.copytree(run, copy)
    shutil.rmtree(copy / "checkpoints" / "step-000020")
    return copy


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    text = text_file(tmp_path_factory.mktemp("text"))
    watching = ["--checkpoint-every", 10, "--evaluate-every", 10, "--keep-checkpoints", 9]
    # Five passes, so that one of two processes has more of them.
    return [
        "train", text, *SMALL, "--accumulation", 5, "--steps", 20, "--dropout", 0.1,
        "--on-spike", "rollback", "--engine", "plain", *watching,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def one(given, tmp_path_factory):
    run = tmp_path_factory.mktemp("one") / "run"
    minitx(*given, "--out", run)
    return run


@pytest.fixture(scope="module")
def two(given, tmp_path_factory):
    run = tmp_path_factory.mktemp("two") / "run"
    minitx(*given, *SHARDED, "--out", run)
    return run


@pytest.mark.parametrize("size", [2, pytest.param(4, marks=pytest.mark.campaign)])
def test_each_has_its_rows_and_they_learn_as_a_whole(size):
    words = [sys.executable, *several(size), HERE / "sharded_parts.py"]
    process = begin([*map(str, words)])
    _, told = process.communicate(timeout=200)
    assert process.returncode == 0, told


def test_a_run_is_that_of_a_model_that_is_not_shared_out(one, two):
    require_close(losses(one), losses(two))
    for step in (10, 20):
        require_same(one, two, step)
    config = RunDirectory(two).read_config().train
    assert (config.shard, config.processes, config.engine) == (True, 2, "plain")
    health = [[line for line in metrics(run) if line["kind"] == "health"] for run in (one, two)]
    assert health[0]
    for mine, its in zip(*health, strict=True):
        for key in ("gradient_norms", "update_ratios"):
            assert mine[key] == pytest.approx(its[key], rel=1e-3)


def test_a_killed_one_goes_on_to_the_bit(given, two, tmp_path):
    run = tmp_path / "run"
    # In the twelfth step: three passes a step.
    planted("kill:1:35", 2, *given, "--shard", "--out", run, code=1)
    assert RunDirectory(run).steps() == [10]
    minitx("resume", run)
    assert losses(run) == losses(two)
    assert digests(run, 20) == digests(two, 20)


def test_it_goes_on_without_sharing_and_in_another_number(one, two, tmp_path):
    alone = earlier(two, tmp_path / "alone")
    minitx("resume", alone, "--no-shard", "--processes", 1, "--engine", "plain")
    require_close(losses(alone), losses(one))
    require_same(alone, one, 20)
    in_four = earlier(one, tmp_path / "in-four")
    film = in_four / "film.jsonl"
    film.write_text('{"kind": "moment", "step": 9}\n{"kind": "moment", "step": 11}\n')
    minitx("resume", in_four, "--shard", "--processes", 4)
    assert film.read_text() == '{"kind": "moment", "step": 9}\n'  # Step 11 was undone.
    require_close(losses(in_four), losses(one))
    require_same(in_four, one, 20)
    assert RunDirectory(in_four).read_config().train.shard


def test_all_go_back_to_a_good_state(given, tmp_path):
    runs = [tmp_path / "one", tmp_path / "two"]
    for n, run in enumerate(runs, 1):
        # Of the sixteenth step, the second pass of the first process.
        number = 15 * 5 + 2 if n == 1 else 15 * 3 + 2
        shard = ["--shard"] if n > 1 else []
        planted(f"nan:0:{number}", n, *given, *shard, "--optimizer", "adamw", "--out", run)
    require_close(*map(losses, runs))
    for run in runs:
        (told,) = [line for line in metrics(run) if line.get("name") == "rollback"]
        assert (told["step"], "back at step 0;" in told["message"]) == (16, True)


@pytest.mark.campaign  # The launcher waits half a minute for the others.
def test_where_memory_runs_out_fewer_are_computed_from_then_on(given, tmp_path):
    run = tmp_path / "run"
    told = planted("memory:1:31", 2, *given, "--shard", "--out", run, code=2)
    (line,) = [line for line in told.splitlines() if line.startswith("error:")]
    assert "memory ran out in process 1 of 2" in line
    assert "minitx/training" not in told  # No traceback of ours.
    assert RunDirectory(run).read_config().train.micro_batch_size == 2
    minitx("resume", run)
    assert metrics(run)[-1]["step"] == 20


def test_what_does_not_go_together_is_refused(verses, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    request = TrainRequest(
        data={"corpus": (str(verses),)}, model=TINY_MODEL, train={**TINY_TRAIN, "shard": True}
    )
    with pytest.raises(BadInputError, match="this is the only one"):
        train(request, [])
    assert not list(tmp_path.iterdir())
    two = {"shard": True, "processes": 2}
    for keys, is_own, words in (
        ({"engine": "torch-compile"}, False, "--engine torch-compile"),
        ({}, True, "knows no blocks"),
    ):
        with pytest.raises(BadInputError, match=words):
            require_shardable({**two, **keys}, is_own)
    require_shardable(two)
    require_shardable({"shard": False, "processes": 1, "engine": "torch-compile"})


def test_a_resumed_one_in_one_process_is_refused(two):
    told = minitx("resume", two, "--steps", 30, "--processes", 1, code=2)
    assert "--no-shard" in told
    assert told.count("\n") == 1
