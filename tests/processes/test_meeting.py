"""Processes that can't meet, or do not fit together, say so in one line, and end."""

from __future__ import annotations

import socket
import sys
import time

import pytest

from minitx.errors import LostProcessError
from minitx.training.heartbeat import Heartbeat
from tests.processes.several import SMALL, begin, command, free_port, minitx, text_file

SECONDS = "4"


def environment(rank, port, **changes):
    return {
        "RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(port),
        "MINITX_MEETING_SECONDS": SECONDS, "TORCH_CPP_LOG_LEVEL": "FATAL", **changes,
    }  # fmt: skip


def refused(text, code, **about):
    told = minitx("train", text, "--steps", 2, code=code, **about)
    assert told.count("\n") == 1, told
    assert told.startswith("error: ")
    return told


def both(commands, seconds=60):
    """Exit codes and what two processes said, which nobody watches over."""
    port = free_port()
    started = [begin(words, **environment(rank, port)) for rank, words in enumerate(commands)]
    told = [process.communicate(timeout=seconds)[1] for process in started]
    return [process.returncode for process in started], told


def patched(code, *arguments):
    """The command, with some code run before it."""
    main = f"{code}; from minitx.cli.app import main; main()"
    return [sys.executable, "-c", main, *map(str, arguments)]


def test_a_port_that_is_taken(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        told = refused(text_file(tmp_path), 2, **environment(0, port))
    assert f"port {port} is taken" in told
    assert "--master-port" in told


def test_a_name_that_does_not_resolve(tmp_path):
    about = environment(1, free_port(), MASTER_ADDR="no-such-host.invalid")
    told = refused(text_file(tmp_path), 2, **about)
    assert "no-such-host.invalid (MASTER_ADDR) can't be resolved" in told


def test_a_machine_that_does_not_answer(tmp_path):
    # One that takes no connection: its queue is full.
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server:
        port = server.getsockname()[1]
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(("127.0.0.1", port))
        told = refused(text_file(tmp_path), 2, **environment(1, port, MASTER_ADDR="127.0.0.1"))
        for one in waiting:
            one.close()
    assert f"127.0.0.1 port {port} does not answer" in told
    assert "firewall" in told


@pytest.mark.parametrize("rank", [0, 1])
def test_one_that_does_not_come(tmp_path, rank):
    port, other = free_port(), 1 - rank
    told = refused(text_file(tmp_path), 6, **environment(rank, port))
    assert f"process {other} of 2 did not come" in told


@pytest.mark.parametrize("given", [{"MASTER_PORT": ""}, {"MASTER_PORT": "x"}, {"RANK": "2"}])
def test_an_environment_that_is_none(tmp_path, given):
    told = refused(text_file(tmp_path), 2, **environment(0, 1, **given))
    name = next(iter(given))
    assert f"error: {name} is" in told


def test_another_version_is_refused_by_name(tmp_path):
    given = ["train", text_file(tmp_path), *SMALL, "--steps", 2, "--out", tmp_path / "run"]
    older = patched("import minitx; minitx.__version__ = '0.0.1'", *given)
    codes, told = both([command(*given), older])
    assert codes == [2, 2]
    assert "process 1 on " in told[0]
    assert "has minitx 0.0.1, and process 0 on" in told[0]
    assert not (tmp_path / "run").exists()


def test_another_command_is_refused_by_name(tmp_path):
    text = text_file(tmp_path)
    given = ["train", text, *SMALL, "--steps", 2, "--out", tmp_path / "run"]
    codes, told = both([command(*given), command(*given, "--seed", 5)])
    assert codes == [2, 2]
    assert "was started with another seed than process 0: 5, not left out" in told[0]
    codes, told = both([command(*given), command("train", tmp_path, *given[2:])])
    assert codes == [2, 2]
    assert "another corpus" in told[0]
    assert not (tmp_path / "run").exists()


MEETING, TRAIN = "minitx.training.meeting", "minitx.workflows.train"


@pytest.mark.parametrize(
    ("rank", "module", "function"),
    [
        # Before all have come, before all are connected, and when the first reads the text.
        (0, MEETING, "_require_alike"),
        (1, MEETING, "_require_alike"),
        (0, MEETING, "_initialize"),
        (1, MEETING, "_initialize"),
        (0, TRAIN, "read_corpus"),
        (1, TRAIN, "follow"),
    ],
)
def test_one_that_is_killed_on_the_way_ends_the_others(tmp_path, rank, module, function):
    given = ["train", text_file(tmp_path), *SMALL, "--steps", 2, "--out", tmp_path / "run"]
    commands = [command(*given), command(*given)]
    dies = f"import os, {module} as m; m.{function} = lambda *a, **b: os.kill(os.getpid(), 9)"
    commands[rank] = patched(dies, *given)
    began = time.monotonic()
    codes, told = both(commands)
    assert time.monotonic() - began < 30
    assert codes[rank] == -9
    assert codes[1 - rank] == 6
    assert told[1 - rank].count("\n") == 1
    # The first keeps the store here: without it, nobody can say more.
    assert rank == 0 or "process 1 of 2 was lost" in told[0]


def test_an_error_that_names_gloo_is_not_hidden_while_all_live(monkeypatch):
    """Only where a process is gone is it told instead of the error."""
    beating = Heartbeat(store=None, rank=0, size=2, is_quiet=True, about={})
    monkeypatch.setattr(beating, "find_lost", lambda: None)
    beating.tell_loss()  # Returns, so that the error goes on.
    monkeypatch.setattr(beating, "find_lost", lambda: 1)
    with pytest.raises(SystemExit) as ended:
        beating.tell_loss()
    assert ended.value.code == LostProcessError.exit_code
