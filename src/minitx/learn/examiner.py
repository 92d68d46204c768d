"""The process in which a learner's code runs: loads it, makes the trials, says what came out.

It is started by `judge.py`, which waits for the verdict in a file. What should come out is computed
before the learner's code is loaded, so that nothing that the code does changes it.
"""

from __future__ import annotations

import ast
import contextlib
import errno
import faulthandler
import importlib
import importlib.util
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

import torch

from minitx.learn.compare import difference, seen_too_early
from minitx.learn.exercise import Exercise, read_exercise
from minitx.learn.naming import slips_that_explain
from minitx.learn.trial import ChangedInputError, Trial, Trials, result_of, same

_ROOM = "minitx.learn.exercises."
_MEMORY, _OUTPUT = 4 << 30, 8 << 20  # bytes


def main(name: str, place: Path) -> None:
    """Wait for one line on stdin, which names a file and a time limit, and judge that file."""
    torch.set_num_threads(1)
    module = importlib.import_module(_ROOM + name)
    wanted = [result_of(trial) for trial in module.trials(module.REFERENCE)]
    line = sys.stdin.readline()
    if not line:
        return
    order = json.loads(line)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: PTH123, SIM115
    _set_bounds()
    with (place / "stack").open("w") as stack:
        faulthandler.enable(stack)
        faulthandler.dump_traceback_later(order["limit"], exit=True, file=stack)
        verdict = examine(read_exercise(name), module.trials, wanted, Path(order["file"]))
        faulthandler.cancel_dump_traceback_later()
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        (place / "verdict").write_text(json.dumps(verdict), encoding="utf-8")
        # Threads and exit handlers of the learner's code have no say.
        os._exit(0)


def examine(exercise: Exercise, trials: Trials, wanted: list[Any], file: Path) -> dict[str, Any]:
    """The verdict on a file, as the fields of a `judge.Verdict`."""
    sys.path.insert(0, str(file.parent))
    os.chdir(file.parent)
    made: list[tuple[Trial, Any]] = []
    trial: Trial | None = None
    try:
        answer = _load(file)
        missing = [name for name in _names(exercise) if not hasattr(answer, name)]
        if missing:
            return _wrong(f"There is no `{missing[0]}` in it any more.")
        for trial in trials(answer):
            made.append((trial, result_of(trial)))
    except BaseException as error:  # SystemExit and KeyboardInterrupt are the learner's, too
        # What came out before may say more than the exception that it led to.
        if verdict := _compared(exercise, trials, made, wanted):
            return verdict
        if isinstance(error, ChangedInputError):
            what = f"`{error}` writes into what it is given. Make a new list or tensor instead."
            return _wrong(what)
        return _raised(error, file, trial)
    if verdict := _compared(exercise, trials, made, wanted):
        return verdict
    return _left_behind(trials, answer, [result for _, result in made]) or {"passed": True}


def _compared(
    exercise: Exercise, trials: Trials, made: list[tuple[Trial, Any]], wanted: list[Any]
) -> dict[str, Any] | None:
    """What the first wrong result says; None if those that there are, are right."""
    for (trial, one), other in zip(made, wanted, strict=False):
        if not (what := difference(one, other)):
            continue
        if slips := slips_that_explain(exercise, trials, [result for _, result in made]):
            told = " ".join(slip.told for slip in slips)
            return {**_wrong(told, f"{trial.about}: {what}"), "named": True}
        try:
            early = seen_too_early(trial)
        except Exception:
            early = ""
        return _wrong(early or what, f"{trial.about}: {what}" if early else trial.about)
    return None


def _left_behind(trials: Trials, answer: Any, got: list[Any]) -> dict[str, Any] | None:
    """What a right answer changed beside its results; None if nothing."""
    if torch.get_default_dtype() != torch.float32:
        return _wrong("It changes torch's default dtype, for everybody. Give a dtype where needed.")
    if not torch.is_grad_enabled():
        return _wrong("It switches gradients off, for everybody. Use `with torch.no_grad():`.")
    try:
        again = [result_of(trial) for trial in trials(answer)]
    except Exception:
        again = []
    if same(again, got):
        return None
    return _wrong(
        "It gives something else when it is called again. Does it keep something in a global "
        "variable, or draw random numbers?"
    )


def _wrong(what: str, where: str = "") -> dict[str, Any]:
    return {"passed": False, "what": what, "where": where}


def _raised(error: BaseException, file: Path, trial: Trial | None) -> dict[str, Any]:
    """An exception of the learner's code, with the line of theirs that is nearest to it."""
    line = None
    source = file.name
    for frame in traceback.extract_tb(error.__traceback__):
        if Path(frame.filename).parent == file.parent:
            line, source = frame.lineno, Path(frame.filename).name
    kind, words = type(error).__name__, " ".join(str(error).split())
    if isinstance(error, SyntaxError):
        line, words = error.lineno, error.msg
        source = Path(error.filename).name if error.filename else source
        what = f"Python can't read it: {words}."
    elif isinstance(error, NotImplementedError):
        what = "A part of it is not filled in yet."
    elif isinstance(error, SystemExit):
        what = "It ends the program. Remove the call of exit."
    elif isinstance(error, RecursionError):
        what = "It calls itself without end."
    elif isinstance(error, MemoryError) or "allocate memory" in words:
        what = "It takes more memory than there is. Does a list or a tensor grow without end?"
    elif isinstance(error, ModuleNotFoundError):
        what = f"It imports `{error.name}`, which is not there."
    elif isinstance(error, EOFError):
        what = "It asks for input, and nobody answers here."
    elif isinstance(error, OSError) and error.errno == errno.EFBIG:
        what = "It prints or writes without end."
    else:
        what = f"It raises {kind}: {words.rstrip('.')}." if words else f"It raises {kind}."
    return {**_wrong(what, trial.about if trial else ""), "line": line, "file": source}


def _load(file: Path) -> Any:
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module
    spec.loader.exec_module(module)
    return module


def _names(exercise: Exercise) -> list[str]:
    """Functions and classes that trials call."""
    body = ast.parse(exercise.solution).body
    return [node.name for node in body if isinstance(node, (ast.FunctionDef, ast.ClassDef))]


def _set_bounds() -> None:
    # Where the system can: an endless list, or endless output, must not take the machine with it.
    with contextlib.suppress(ImportError, OSError, ValueError, AttributeError):
        import resource

        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        resource.setrlimit(resource.RLIMIT_DATA, (used + _MEMORY, used + _MEMORY))
        resource.setrlimit(resource.RLIMIT_FSIZE, (_OUTPUT, _OUTPUT))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
