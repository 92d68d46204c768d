"""What an exercise's file is worth: asks a process of its own, and tells what it said."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from minitx.errors import BadInputError
from minitx.files import describe_damage, read_bounded, shell_word
from minitx.learn.exercise import Exercise, unfilled

TIME_LIMIT = 10.0
"""Seconds that a learner's code gets for all its trials; a right answer takes a fraction of one."""

_PRINTED = 2000
_STARTS_IN = 120.0


@dataclass(frozen=True)
class Verdict:
    """What is said of a file.

    Attributes:
        passed: whether it is right.
        what: what is wrong; empty if nothing.
        where: the call that shows it, with numbers.
        named: whether a known slip explains all numbers.
        empty: whether nothing was filled in yet.
        file: where in the learner's directory `line` is.
        line: nearest to what is wrong, from 1; None if it is no single one.
        printed: what the code printed.
    """

    passed: bool
    what: str = ""
    where: str = ""
    named: bool = False
    empty: bool = False
    file: str = ""
    line: int | None = None
    printed: str = ""


class Judge:
    """A process that has loaded torch and an exercise, and waits for the file to judge.

    It judges once. A second one is started for the next time.
    """

    def __init__(self, exercise: Exercise, limit: float = TIME_LIMIT) -> None:
        self.exercise = exercise
        self._limit = limit
        self._folder = tempfile.TemporaryDirectory(prefix="minitx-learn-")
        self._place = Path(self._folder.name)
        self._said = (self._place / "said").open("wb")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "minitx.learn.examiner", exercise.name, str(self._place)],
            stdin=subprocess.PIPE,
            stdout=self._said,
            stderr=self._said,
            # Python looks first where it is started: there, nothing may be called `torch`.
            cwd=Path(__file__).parents[2],
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONIOENCODING": "utf-8"},
        )

    def __enter__(self) -> Judge:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self._process.kill()
        self._process.communicate()
        self._said.close()
        self._folder.cleanup()

    def verdict(self, file: Path) -> Verdict:
        """Judge a file.

        Raises:
            BadInputError: it can't be read.
        """
        if (early := early_verdict(file, self.exercise)) is not None:
            return early
        order = json.dumps({"file": str(file.resolve()), "limit": self._limit}) + "\n"
        is_late = False
        # A process that died has left its reason.
        with contextlib.suppress(BrokenPipeError):
            try:
                self._process.communicate(order.encode(), timeout=_STARTS_IN + self._limit)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.communicate()
                is_late = True
        with (self._place / "said").open("rb") as file_said:
            said = file_said.read(4 * _PRINTED).decode("utf-8", "replace")
        printed = said if len(said) <= _PRINTED else f"{said[:_PRINTED]}…"
        with contextlib.suppress(OSError, ValueError):
            told = json.loads((self._place / "verdict").read_text("utf-8"))
            return Verdict(**{"file": file.name, **told, "printed": printed})
        return self._without_verdict(file, is_late, printed)

    def _without_verdict(self, file: Path, is_late: bool, printed: str) -> Verdict:
        stack = self._place / "stack"
        trace = stack.read_text(errors="replace") if stack.exists() else ""
        if not trace and not is_late and "Traceback" in printed:
            raise RuntimeError(f"the judge of {self.exercise.name} failed:\n{printed}")
        line = re.search(rf'File "[^"]*{re.escape(file.name)}", line (\d+)', trace)
        if is_late or "Timeout" in trace:
            what = f"It is not done after {self._limit:g} seconds. Does a loop never end?"
        else:
            what = "It ends the whole process, as `os._exit` or a crash below Python does."
        number = int(line[1]) if line else None
        return Verdict(False, what, file=file.name, line=number, printed=printed)


def early_verdict(file: Path, exercise: Exercise) -> Verdict | None:
    """What can be said before the code runs: it is no Python, or not filled in. None if neither.

    Raises:
        BadInputError: the file can't be read.
    """
    try:
        code = read_bounded(file).decode("utf-8")
    except UnicodeDecodeError:
        return Verdict(False, "It is not UTF-8 text. Save it as UTF-8.", file=file.name)
    except (OSError, ValueError) as error:
        fix = f"To lay it out again: minitx learn start {shell_word(file.parent)}"
        raise BadInputError(f"{file} can't be read ({describe_damage(error)})", fix) from None
    try:
        ast.parse(code)
        left = unfilled(code, exercise)
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        what = f"Python can't read it: {getattr(error, 'msg', error)}."
        return Verdict(False, what, file=file.name, line=line)
    if left:
        named = " and ".join(f"`{name}`" for name in left)
        return Verdict(False, f"{named}: not yet filled in.", empty=True, file=file.name)
    return None
