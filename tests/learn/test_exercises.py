"""Every exercise: its solution passes, its gaps are gaps, and wrong answers are called by name."""

import ast
import importlib
import re
from pathlib import Path

import pytest
from planted_answers import PLANTED

from minitx.learn.course import EXERCISES
from minitx.learn.exercise import functions, read_exercise, unfilled

SOURCE = Path(importlib.import_module("minitx").__file__).parent
WRONG = [
    pytest.param(name, edit, words, id=f"{name}-{i}")
    for name, (_, edits) in PLANTED.items()
    for i, (edit, words) in enumerate(edits.items())
]


@pytest.mark.parametrize("name", EXERCISES)
def test_the_solution_passes(name, judged):
    assert judged(name, read_exercise(name).answer) == {"passed": True}


@pytest.mark.parametrize("name", EXERCISES)
def test_another_right_answer_passes(name, judged):
    assert judged(name, PLANTED[name][0]) == {"passed": True}


def test_enough_wrong_answers_are_planted():
    assert set(PLANTED) == set(EXERCISES)
    assert all(len([w for w in edits.values() if w]) >= 3 for _, edits in PLANTED.values())
    assert len(WRONG) >= 60


@pytest.mark.parametrize(("name", "edit", "words"), WRONG)
def test_a_wrong_answer_is_called_by_name(name, edit, words, judged):
    right = PLANTED[name][0]
    assert right.count(edit[0]) == 1
    verdict = judged(name, right.replace(*edit))
    assert not verdict["passed"]
    assert words in verdict["what"], verdict


@pytest.mark.parametrize("name", EXERCISES)
def test_each_slip_is_wrong_and_told_apart(name):
    from minitx.learn.naming import run, slips_that_explain
    from minitx.learn.trial import result_of

    exercise = read_exercise(name)
    trials = importlib.import_module(f"minitx.learn.exercises.{name}").trials
    assert len(exercise.slips) >= 3
    for slip in exercise.slips:
        code = slip.applied(exercise.solution)
        assert code is not None, slip.told
        got = [result_of(trial) for trial in trials(run(code))]
        assert slips_that_explain(exercise, trials, got) == (slip,)


@pytest.mark.parametrize("name", EXERCISES)
def test_gaps_are_laid_out(name):
    exercise = read_exercise(name)
    gaps = exercise.gaps
    names = [function.name for function in functions(ast.parse(exercise.solution))]
    assert unfilled(gaps, exercise) == names
    assert names
    assert unfilled(exercise.answer, exercise) == []
    assert "minitx.learn" not in gaps
    assert ast.get_docstring(ast.parse(gaps)) == exercise.page
    # What is not a function body stands as in the solution.
    kept = [line for line in gaps.splitlines() if not line.endswith("...  # your code here")]
    lines = iter(exercise.answer.splitlines())
    assert all(line in lines for line in kept)


@pytest.mark.parametrize("name", EXERCISES)
def test_a_page_has_an_idea_a_formula_a_paper_and_a_place_that_is_there(name):
    page = read_exercise(name).page
    assert 10 <= len(page.splitlines()) <= 30
    assert re.search(r"^    \S", page, re.M)
    assert re.search(r"^Paper: .*\d{4}", page, re.M)
    path, place = read_exercise(name).place.split(": ")
    line = (SOURCE / path).read_text().splitlines()[read_exercise(name).line - 1]
    assert re.match(rf" *(def|class) {place.split('.')[-1]}\b", line)


def test_hints_come_in_three_layers_the_solution_last():
    assert all(len(read_exercise(name).hints) == 2 for name in EXERCISES)
