"""Judging one exercise after the other, once or whenever a file is saved."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from minitx.errors import BadInputError
from minitx.learn.course import EXERCISES
from minitx.learn.exercise import Exercise, read_exercise
from minitx.learn.judge import TIME_LIMIT, Judge, Verdict, early_verdict
from minitx.learn.progress import Course

_LOOKS_EVERY, _PUT_BACK_IN = 0.25, 1.0


@dataclass(frozen=True)
class Checked:
    """An exercise and what is said of it."""

    exercise: Exercise
    verdict: Verdict


def named_exercise(name: str) -> Exercise:
    """The exercise of a name, or of a file's name.

    Raises:
        BadInputError: there is none.
    """
    bare = name.rsplit("/", 1)[-1].removesuffix(".py")
    if bare not in EXERCISES:
        raise BadInputError(f"there is no exercise {name}", f"Choose one of {', '.join(EXERCISES)}")
    return read_exercise(bare)


def check(
    course: Course, only: Exercise | None = None, limit: float = TIME_LIMIT
) -> Iterator[Checked]:
    """Judge the next exercise, and go on as long as they pass; or `only` one.

    Raises:
        BadInputError: a file can't be read, or the progress can't be written.
    """
    while (exercise := only or course.next()) is not None:
        # Before it is judged: what is saved meanwhile has not passed.
        digest = course.digest(exercise)
        verdict = early_verdict(course.file(exercise), exercise)
        if verdict is None:
            with Judge(exercise, limit) as judge:
                verdict = judge.verdict(course.file(exercise))
        yield _noted(course, exercise, verdict, digest)
        if only is not None or not verdict.passed:
            return


def watch(
    course: Course, limit: float = TIME_LIMIT, wait: Callable[[float], None] = time.sleep
) -> Iterator[Checked]:
    """Judge the next exercise whenever its file is saved, until all have passed.

    A judge is ready before the file is saved, so that the answer comes at once.
    """
    seen = ("", "")
    while (exercise := course.next()) is not None:
        with Judge(exercise, limit) as judge:
            # An earlier file may change as well, and is then the next one.
            while seen == (exercise.name, course.digest(exercise)) and course.next() == exercise:
                wait(_LOOKS_EVERY)
            if course.next() != exercise:
                continue
            if not course.digest(exercise):  # an editor may be putting a new file in its place
                wait(_PUT_BACK_IN)
            seen = (exercise.name, course.digest(exercise))
            verdict = judge.verdict(course.file(exercise))
        yield _noted(course, exercise, verdict, seen[1])


def _noted(course: Course, exercise: Exercise, verdict: Verdict, digest: str) -> Checked:
    if verdict.passed:
        course.note_passed(exercise, digest)
    return Checked(exercise, verdict)
