"""One recipe, any number of processes: the same losses, and to the bit after a resume."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from chats import write_chats

from minitx.workflows.launch import run_processes
from tests.processes.several import (
    SMALL,
    begin,
    command,
    digests,
    free_port,
    losses,
    metrics,
    minitx,
    ranks,
    start,
    text_file,
    wait_for_steps,
)

pytestmark = pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="reads /proc")


def differ(one, other):
    """By which part of themselves losses differ at most."""
    assert one.keys() == other.keys()
    return max(abs(one[key] - other[key]) / one[key] for key in one)


def test_two_processes_learn_what_one_does(tmp_path):
    text, one, two = text_file(tmp_path), tmp_path / "one", tmp_path / "two"
    given = [*SMALL, "--steps", 20, "--dropout", 0.1, "--evaluate-every", 10]
    minitx("train", text, "--out", one, *given)
    minitx("train", text, "--out", two, *given, "--processes", 2)
    assert differ(losses(one), losses(two)) < 1e-6
    assert "processes = 2" in (two / "run.toml").read_text()


def test_two_processes_learn_further_and_to_talk_as_one_does(tmp_path, tiny_run):
    """From a trained model, on conversations, of which each has other targets."""
    chats = write_chats(tmp_path / "chats.jsonl")
    given = ["--from", tiny_run, *SMALL[6:], "--steps", 8, "--evaluate-every", 4]
    for name, n in (("one", 1), ("two", 2)):
        minitx("train", chats, "--out", tmp_path / name, *given, "--processes", n)
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert differ(one, two) < 1e-6
    kinds = [line["kind"] for line in metrics(tmp_path / "two")]
    assert "evaluation" in kinds


def test_passes_are_divided_where_processes_are_more(tmp_path):
    text, one, two = text_file(tmp_path), tmp_path / "one", tmp_path / "two"
    given = [*SMALL, "--accumulation", 1, "--batch-size", 5, "--steps", 10, "--optimizer", "adamw"]
    minitx("train", text, "--out", one, *given)
    minitx("train", text, "--out", two, *given, "--processes", 2)
    assert differ(losses(one), losses(two)) < 1e-6


def test_a_resumed_run_is_the_undisturbed_one_to_the_bit(tmp_path):
    text, whole, cut = text_file(tmp_path), tmp_path / "whole", tmp_path / "cut"
    given = [*SMALL, "--steps", 12, "--dropout", 0.1, "--checkpoint-every", 6]
    given += ["--processes", 2, "--evaluate-every", 6, "--keep-checkpoints", 9]
    minitx("train", text, "--out", whole, *given)
    shutil.copytree(whole, cut)
    shutil.rmtree(cut / "checkpoints" / "step-000012")
    minitx("resume", cut)  # In as many processes as before.
    assert losses(cut) == losses(whole)
    assert digests(cut, 12) == digests(whole, 12)


def test_a_budget_is_decided_by_the_first(tmp_path):
    text, run = text_file(tmp_path), tmp_path / "run"
    minitx("train", text, "--out", run, *SMALL, "--budget", "4s", "--processes", 2)
    end = metrics(run)[-1]
    assert end["kind"] == "end"
    assert "step_decisions = []" not in (run / "run.toml").read_text()


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_is_named_and_its_run_goes_on(tmp_path, tiny_run, rank):
    text, run = text_file(tmp_path), tmp_path / "run"
    # Once from nothing, and once from a trained model.
    model = ["--from", tiny_run, *SMALL[6:]] if rank else SMALL
    process = start(
        "train", text, "--out", run, *model, "--steps", 2000, "--checkpoint-every", 5,
        "--processes", 2,
    )  # fmt: skip
    wait_for_steps(run, 8)
    os.kill(ranks(process.pid)[rank], signal.SIGKILL)
    _, told = process.communicate(timeout=30)
    assert process.returncode == 6
    assert told.count("\n") == 1
    # The launcher tells it; where it has to wait for the processor, the other process does.
    assert f"process {rank} of 2 was killed (SIGKILL)" in told \
        or f"process {rank} of 2 was lost: killed" in told  # fmt: skip
    assert f"minitx resume {run}" in told
    minitx("resume", run, "--steps", 30, "--processes", 1)
    assert metrics(run)[-1]["step"] == 30


def test_one_that_is_asked_to_stop_stops_all_and_saves(tmp_path):
    text, run = text_file(tmp_path), tmp_path / "run"
    process = start("train", text, "--out", run, *SMALL, "--steps", 2000, "--processes", 2)
    wait_for_steps(run, 8)
    os.kill(ranks(process.pid)[1], signal.SIGTERM)
    _, told = process.communicate(timeout=30)
    assert process.returncode == 143
    assert "which is saved" in told
    assert told.count("\n") == 1


def test_each_phase_is_told_once(tmp_path):
    words = command("train", text_file(tmp_path), "--out", tmp_path / "run", *SMALL, "--steps", 2)
    told = subprocess.check_output([*words, "--processes", "2"], text=True, timeout=120)
    phases = [line for line in told.splitlines() if line.startswith("phase")]
    assert "phase loading torch" in told
    assert len(phases) == len(set(phases))


def test_what_the_first_refuses_is_told_once(tmp_path):
    text = text_file(tmp_path)
    told = minitx("train", text, "--processes", 2, "--heads", 7, "--d-model", 32, code=2)
    assert told.count("error:") == 1
    assert "Traceback" not in told


def test_processes_are_not_started_from_within_one(tmp_path):
    told = minitx("train", text_file(tmp_path), "--processes", 3, code=2, RANK="0", WORLD_SIZE="1")
    assert "torchrun started 1" in told


def test_what_processes_are_started_with_stays_with_them(tmp_path):
    """A program that starts processes twice, as the tests do, hands nothing of one to the next."""
    before = dict(os.environ)
    with pytest.raises(SystemExit):
        run_processes(2, ["train", str(tmp_path / "not there")])
    assert dict(os.environ) == before


def test_a_machine_that_cannot_resolve_its_own_name(tmp_path, monkeypatch, capfd):
    """As in a container; torchrun's launcher would wait 300 s for it."""
    monkeypatch.setattr(socket, "getfqdn", lambda name="": "nowhere.invalid")
    with pytest.raises(SystemExit) as end:
        run_processes(2, ["train", str(tmp_path / "not there")])
    assert end.value.code == 2
    assert "not there" in capfd.readouterr().err


INTERPRETER_THAT_TELLS = """
import atexit, os
from minitx.__main__ import main

class Kept:
    def __del__(self):
        os.write(1, b"the interpreter ended\\n")

kept = Kept()
atexit.register(print, "all is done")
main()
"""


@pytest.mark.parametrize("launched", [False, True])
@pytest.mark.parametrize(("asked", "code"), [("--version", 0), ("--nonsense", 2)])
def test_a_process_of_a_team_leaves_before_the_interpreter_ends(launched, asked, code):
    """A thread of gloo that needs the interpreter then would end the process by SIGABRT."""
    team = {"RANK": "0", "WORLD_SIZE": "1"} if launched else {}
    done = subprocess.run(
        [sys.executable, "-c", INTERPRETER_THAT_TELLS, asked],
        capture_output=True, text=True, timeout=60, env=os.environ | team,
    )  # fmt: skip
    assert done.returncode == code
    assert ("minitx" in done.stdout) is (code == 0)
    assert ("error: " in done.stderr) is (code == 2)
    assert "all is done" in done.stdout
    assert ("the interpreter ended" in done.stdout) is not launched


@pytest.mark.campaign  # Whether a process is gone is known after twelve seconds.
def test_an_error_that_names_gloo_while_all_live_is_told(tmp_path):
    process = begin(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"),
            *("--master-port", str(free_port()), str(Path(__file__).parent / "planted_run.py")),
            *map(str, ("train", text_file(tmp_path), *SMALL, "--steps", 20)),
            *("--out", str(tmp_path / "run")),
        ],
        PLANT="error:0:5",
    )
    _, told = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "RuntimeError: gloo: planted" in told
