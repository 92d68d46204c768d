"""A course that is solved, and a judge in this process."""

import importlib
import os
import sys
from functools import cache
from pathlib import Path

import pytest

from minitx.learn.course import EXERCISES
from minitx.learn.exercise import read_exercise


@pytest.fixture(scope="session")
def solved(tmp_path_factory):
    """A directory with the solution of every exercise."""
    place = tmp_path_factory.mktemp("course")
    for name in EXERCISES:
        (place / f"{name}.py").write_text(read_exercise(name).answer)
    return place


@cache
def wanted(name):
    from minitx.learn.trial import result_of

    module = importlib.import_module(f"minitx.learn.exercises.{name}")
    return [result_of(trial) for trial in module.trials(module.REFERENCE)]


@pytest.fixture
def judged(solved, monkeypatch):
    """What is said of a text as the answer to an exercise; as `examiner` says it."""
    from minitx.learn import examiner

    monkeypatch.syspath_prepend(str(solved))
    cwd = Path.cwd()

    def judge(name, code):
        monkeypatch.setattr(sys, "dont_write_bytecode", True)
        for other in EXERCISES:
            sys.modules.pop(other, None)
        exercise = read_exercise(name)
        file = solved / exercise.file_name
        file.write_text(code)
        module = importlib.import_module(f"minitx.learn.exercises.{name}")
        try:
            return examiner.examine(exercise, module.trials, wanted(name), file)
        finally:
            file.write_text(exercise.answer)

    yield judge
    os.chdir(cwd)
    for other in EXERCISES:
        sys.modules.pop(other, None)
