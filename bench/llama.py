"""llama.cpp as a peer: the program that npm has built, which reads what `minitx export` writes.

Needs node, a folder where `npm install node-llama-cpp` was run, and the package `gguf`.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

_SCRIPT = Path(__file__).parent / "llama.mjs"


def missing_for_llama(installed: Path) -> str:
    """What it lacks here, and how to get that; empty if it can run."""
    if not shutil.which("node"):
        return "no program node; install Node.js"
    if not (installed / "node_modules/node-llama-cpp").is_dir():
        return f"no node-llama-cpp in {installed}; run npm install node-llama-cpp there"
    if importlib.util.find_spec("gguf") is None:
        return f"no package gguf; run {sys.executable} -m pip install gguf"
    return ""


class LlamaProcess:
    """A process that has loaded a model and generates when asked."""

    def __init__(self, installed: Path, model: Path, threads: int) -> None:
        command = ["node", str(_SCRIPT), str(installed), str(model), str(threads)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._wait_for("ready")

    def run(self, tokens: int) -> None:
        """Generate so many tokens after one."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{tokens}\n")
        self._process.stdin.flush()
        self._wait_for("done")

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()

    def _wait_for(self, answer: str) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.strip() == answer:
                return
        raise RuntimeError(f"llama.cpp ended with {self._process.wait()}")
