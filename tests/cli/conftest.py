"""Run the command line in this process: the same code, without a second to import torch."""

import os
import subprocess
import sys
from dataclasses import dataclass

import pytest

from minitx.cli import app


@dataclass
class Result:
    code: int
    out: str
    err: str


@pytest.fixture
def minitx(capfd, monkeypatch):
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
