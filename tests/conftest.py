"""Small runs that many tests look at; each is trained once."""

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass

import hypothesis
import pytest
from small_runs import SHAKESPEARE, TINY_MODEL, TINY_TRAIN, VERSES

# What is measured of this machine is kept apart from the user's, and measured anew by each run of
# the tests. A worker has its own.
_cache = tempfile.TemporaryDirectory()
os.environ["XDG_CACHE_HOME"] = _cache.name

# One thread, as in the test command: the numbers of a run depend on it.
os.environ.setdefault("OMP_NUM_THREADS", "1")


# The same examples each time, so that a change is not blamed for what another's examples find;
# `pytest --hypothesis-profile=default` draws new ones.
hypothesis.settings.register_profile("repeated", derandomize=True)
hypothesis.settings.load_profile("repeated")


@pytest.fixture(scope="session")
def verses(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "verses.txt"
    path.write_text(VERSES)
    return path


@pytest.fixture
def inside(tmp_path, monkeypatch):
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory, verses):
    """A finished run; tests must not change it."""
    from minitx.workflows.train import TrainRequest, train

    request = TrainRequest(
        data={"corpus": (str(verses),)},
        model=TINY_MODEL,
        train={**TINY_TRAIN, "steps": 120, "evaluate_every": 40, "checkpoint_every": 40},
        out=tmp_path_factory.mktemp("tiny") / "runs" / "verses-001",
    )
    return train(request, []).run


@pytest.fixture(scope="session")
def tiny_gpt2_run(tmp_path_factory, verses):
    """The same with the other architecture and byte-level BPE."""
    from minitx.workflows.train import TrainRequest, train

    shape = {key: value for key, value in TINY_MODEL.items() if key != "n_kv_heads"}
    request = TrainRequest(
        data={"corpus": (str(verses),)},
        tokenizer={"kind": "bpe", "vocab_size": 300},
        model={**shape, "architecture": "gpt2"},
        train={**TINY_TRAIN, "steps": 40},
        out=tmp_path_factory.mktemp("tiny") / "runs" / "verses-001",
    )
    return train(request, []).run


@pytest.fixture
def shakespeare():
    if not SHAKESPEARE.is_file():
        pytest.skip("tiny Shakespeare is not here")
    return SHAKESPEARE


@dataclass
class Result:
    code: int
    out: str
    err: str


@pytest.fixture
def minitx(capfd, monkeypatch):
    """Run the command line in this process: the same code, without a second to import torch."""
    from minitx.cli import app

    def run(*arguments, stdin=None):
        monkeypatch.setattr(sys, "argv", ["minitx", *map(str, arguments)])
        code = 0
        previous = sys.stdin
        if stdin is not None:
            read, write = os.pipe()
            os.write(write, stdin if isinstance(stdin, bytes) else stdin.encode())
            os.close(write)
            sys.stdin = os.fdopen(read, encoding="utf-8")
        try:
            app.main()
        except SystemExit as end:
            code = end.code or 0
        finally:
            sys.stdin = previous
        out, err = capfd.readouterr()
        return Result(code, out, err)

    return run


@pytest.fixture
def minitx_process():
    def run(*arguments, **named):
        command = [sys.executable, "-m", "minitx", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, **named)
        return Result(done.returncode, done.stdout, done.stderr)

    return run
