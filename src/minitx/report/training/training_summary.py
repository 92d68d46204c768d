"""What to run next, told at the end of training."""

from __future__ import annotations

import contextlib
import os
import shlex
from pathlib import Path

_LONGEST_PROMPT = 24


def next_steps(
    run_dir: Path, prompt: str = "", steps: int | None = None, interrupted: bool = False
) -> list[str]:
    """Return command lines that go on from a run.

    Args:
        run_dir: shown relative to the working directory if it lies below it.
        prompt: a text the run's tokenizer knows, for example its sample's prompt; its first
            words are used.
        steps: number of steps to offer for `resume`; None writes ``N``.
        interrupted: the run stopped before its last step, so finishing it comes first.
    """
    run = shlex.quote(run_path(run_dir))
    start = shlex.quote(_short(prompt))
    commands = [
        f"minitx generate {run} --prompt {start} --top-k 40",
        f"minitx eval {run} --holdout",
        f"minitx attn {run} --prompt {start}",
        f"minitx report {run}",
    ]
    if interrupted:
        return [f"minitx resume {run}", *commands]
    return [*commands, f"minitx resume {run} --steps {steps or 'N'}"]


def run_path(path: Path) -> str:
    """Write a path for people: relative where it is below the working directory."""
    # resolve() would follow links, and show a name the person never typed.
    absolute = Path(os.path.abspath(path))  # noqa: PTH100
    with contextlib.suppress(ValueError):
        return str(absolute.relative_to(Path.cwd()))
    return str(path)


def _short(prompt: str) -> str:
    line = next((line.strip() for line in prompt.splitlines() if line.strip()), "")
    if not line or not line.isprintable():
        return "The"
    if len(line) <= _LONGEST_PROMPT:
        return line
    cut = line[: _LONGEST_PROMPT + 1].rpartition(" ")[0].strip()
    return cut or line[:_LONGEST_PROMPT]
