"""The process in which a learner's code runs: loads it, makes the trials, says what came out.

It is started by `judge.py`, which waits for the verdict in a file. What should come out is computed
before the learner's code is loaded, so that nothing that the code does changes it.
"""

from __future__ import annotations

import ast
import faulthandler
import importlib
import importlib.util
import itertools
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

import torch

from minitx.learn.compare import difference, seen_too_early
from minitx.learn.exercise import Exercise, functions, read_exercise
from minitx.learn.naming import slips_that_explain
from minitx.learn.trial import ChangedInputError, Trial, Trials, result_of, same

_ROOM = "minitx.learn.exercises."
_MEMORY = 4 << 30


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
    _bound_memory()
    with (place / "stack").open("w") as stack:
        faulthandler.enable(stack)
        faulthandler.dump_traceback_later(order["limit"], exit=True, file=stack)
        verdict = examine(read_exercise(name), module.trials, wanted, Path(order["file"]))
        faulthandler.cancel_dump_traceback_later()
        sys.stdout.flush()
        (place / "verdict").write_text(json.dumps(verdict), encoding="utf-8")
        # Threads and exit handlers of the learner's code have no say.
        os._exit(0)


def examine(exercise: Exercise, trials: Trials, wanted: list[Any], file: Path) -> dict[str, Any]:
    """The verdict on a file, as the fields of a `judge.Verdict`."""
    sys.path.insert(0, str(file.parent))
    os.chdir(file.parent)
    got: list[Any] = []
    trial: Trial | None = None
    try:
        answer = _load(file)
        missing = [name for name in _names(exercise) if not hasattr(answer, name)]
        if missing:
            return _wrong(f"There is no `{missing[0]}` in it any more.")
        for trial in trials(answer):
            got.append(result_of(trial))
    except BaseException as error:  # SystemExit and KeyboardInterrupt are the learner's, too
        # What came out before may say more than the exception that it led to.
        if got and (verdict := _compared(exercise, trials, answer, got, wanted)):
            return verdict
        if isinstance(error, ChangedInputError):
            what = f"`{error}` writes into what it is given. Make a new list or tensor instead."
            return _wrong(what)
        return _raised(error, file, trial)
    if verdict := _compared(exercise, trials, answer, got, wanted):
        return verdict
    return _left_behind(trials, answer, got) or {"passed": True}


def _compared(
    exercise: Exercise, trials: Trials, answer: Any, got: list[Any], wanted: list[Any]
) -> dict[str, Any] | None:
    """What the first wrong result says; None if those that there are, are right."""
    for i, (one, other) in enumerate(zip(got, wanted, strict=False)):
        if not (what := difference(one, other)):
            continue
        trial = next(itertools.islice(trials(answer), i, None))
        if slips := slips_that_explain(exercise, trials, got):
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
    else:
        what = f"It raises {kind}: {words}." if words else f"It raises {kind}."
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
    tree = ast.parse(exercise.solution)
    classes = [node.name for node in tree.body if isinstance(node, ast.ClassDef)]
    methods = {node.name for node in tree.body for node in getattr(node, "body", ())
               if isinstance(node, ast.FunctionDef)}  # fmt: skip
    return classes + [f.name for f in functions(tree) if f.name not in methods]


def _bound_memory() -> None:
    # Where the system can: a learner's endless list must not take the machine with it.
    try:
        import resource

        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        resource.setrlimit(resource.RLIMIT_DATA, (used + _MEMORY, used + _MEMORY))
    except (ImportError, OSError, ValueError, AttributeError):
        pass


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
