"""Runs that torchrun starts, and starts again; on one machine, and on two."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.processes.several import (
    SMALL,
    begin,
    digests,
    free_port,
    losses,
    metrics,
    minitx,
    ranks,
    text_file,
    torchrun,
    wait_for_steps,
)

pytestmark = pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="reads /proc")
EXAMPLE = Path(__file__).parents[2] / "examples" / "two_nodes.sh"


def test_a_run_that_loses_a_process_goes_on_by_itself(tmp_path):
    text, whole, run = text_file(tmp_path), tmp_path / "whole", tmp_path / "run"
    given = [*SMALL, "--steps", 200, "--dropout", 0.1, "--checkpoint-every", 5]
    minitx("train", text, "--out", whole, *given, "--processes", 2)
    process = begin(
        torchrun(
            "--standalone", "--nproc-per-node=2", "--max-restarts=3",
            "train", text, "--out", run, *given,
        )
    )  # fmt: skip
    wait_for_steps(run, 12)
    os.kill(ranks(process.pid)[1], signal.SIGKILL)
    _, told = process.communicate(timeout=120)
    assert process.returncode == 0, told
    assert metrics(run)[-1]["kind"] == "end"
    assert losses(run) == losses(whole)
    assert digests(run, 200) == digests(whole, 200)


def on_two(text, run, first, prefixes, *more):
    """Start the example on two machines; each command begins with one of the prefixes."""
    about = {
        "PROCESSES": "1", "PORT": str(free_port()),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }  # fmt: skip
    given = [text, "--out", run, *SMALL, "--steps", 12, "--dropout", 0.1, *more]
    return [
        begin([*prefix, *map(str, ["sh", EXAMPLE, node, first, *given])], **about)
        for node, prefix in enumerate(prefixes)
    ]


def ended(processes):
    told = [process.communicate(timeout=200)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], told


def test_two_launchers_train_one_run(tmp_path):
    text, one, two = text_file(tmp_path), tmp_path / "one", tmp_path / "two"
    minitx("train", text, "--out", one, *SMALL, "--steps", 12, "--dropout", 0.1)
    ended(on_two(text, two, "127.0.0.1", [(), ()]))
    apart = [abs(losses(one)[key] - loss) / loss for key, loss in losses(two).items()]
    assert max(apart) < 1e-6
    assert "processes = 2" in (two / "run.toml").read_text()


def ip(*words):
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture
def machines():
    """Two network namespaces that see each other alone."""
    names = [f"minitx-{os.getpid()}-{number}" for number in range(2)]
    try:
        if shutil.which("ip") is None:
            pytest.skip("there is no `ip` command")
        for name in names:
            ip("netns", "add", name)
        links = [f"mx{os.getpid() % 10**6}{letter}" for letter in "ab"]
        ip("link", "add", links[0], "type", "veth", "peer", "name", links[1])
        for number, (name, link) in enumerate(zip(names, links, strict=True), 1):
            ip("link", "set", link, "netns", name)
            ip("-n", name, "addr", "add", f"10.123.0.{number}/24", "dev", link)
            ip("-n", name, "link", "set", link, "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield [("ip", "netns", "exec", name) for name in names], links
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no network namespaces here: {error.stderr.decode().strip()}")
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


def test_two_networks_train_one_run(tmp_path, machines):
    prefixes, links = machines
    run = tmp_path / "run"
    # Both have the name of this machine, so gloo is told which network joins them.
    named = [
        (*prefix, "env", f"GLOO_SOCKET_IFNAME={link}")
        for prefix, link in zip(prefixes, links, strict=True)
    ]
    ended(on_two(text_file(tmp_path), run, "10.123.0.1", named))
    assert metrics(run)[-1]["step"] == 12


def test_a_network_that_goes_away_ends_both(tmp_path, machines):
    prefixes, links = machines
    run = tmp_path / "run"
    processes = [
        begin(
            [
                *prefix, "env", f"GLOO_SOCKET_IFNAME={links[rank]}", "RANK=" + str(rank),
                "WORLD_SIZE=2", "MASTER_ADDR=10.123.0.1", "MASTER_PORT=29500",
                sys.executable, "-m", "minitx", "train", str(text_file(tmp_path)), "--out",
                str(run), *SMALL, "--steps", "100000", "--checkpoint-every", "20",
            ]
        )
        for rank, prefix in enumerate(prefixes)
    ]  # fmt: skip
    wait_for_steps(run, 10)
    ip("-n", prefixes[0][-1], "link", "set", links[0], "down")
    began = time.monotonic()
    told = [process.communicate(timeout=60)[1] for process in processes]
    assert time.monotonic() - began < 30
    codes = [process.returncode for process in processes]
    # The second is ended by the first, which takes it for one of its own machine, or by itself.
    assert codes in ([6, 6], [6, -signal.SIGKILL])
    assert "process 1 of 2 was lost: killed, hung, or cut off" in told[0]
    assert f"go on with: minitx resume {run}" in told[0]


def test_the_job_for_slurm_begins_a_run_and_goes_on_with_it(tmp_path):
    # SLURM's own commands, as they are on one node.
    for name, script in (("scontrol", "echo 127.0.0.1"), ("srun", 'exec "$@"')):
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    run = tmp_path / "run"
    about = {
        "PROCESSES": "2", "PORT": str(free_port()), "RUN": str(run), "SLURM_NNODES": "1",
        "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "one",
        "PATH": f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}",
    }  # fmt: skip
    given = [text_file(tmp_path), *SMALL, "--steps", 6, "--checkpoint-every", 3]
    words = ["bash", *map(str, [EXAMPLE.with_name("slurm.sbatch"), *given])]
    for _ in range(2):
        process = begin(words, **about)
        _, told = process.communicate(timeout=200)
        assert process.returncode == 0, told
        assert metrics(run)[-1]["step"] == 6
        shutil.rmtree(run / "checkpoints" / "step-000006")
