"""What `minitx learn` shows: a verdict, a hint, and how far one is."""

from __future__ import annotations

from collections.abc import Iterator

from rich.text import Text

from minitx.learn.checking import Checked
from minitx.learn.course import CHAPTERS, EXERCISES, Chapter
from minitx.learn.exercise import Exercise
from minitx.learn.progress import Course
from minitx.report.terminal.printable import printed_name, visible

_SHOWN_LINES = 12


def checked_lines(checked: Checked, course: Course) -> Iterator[Text]:
    """What was said of an exercise, and what to do now."""
    verdict, exercise = checked.verdict, checked.exercise
    file = exercise.file_name
    printed = visible(verdict.printed).strip("\n").splitlines()
    if printed:
        yield Text(f"{file} printed:", "dim")
        yield from (Text(f"  {line}", "dim") for line in printed[:_SHOWN_LINES])
        if len(printed) > _SHOWN_LINES:
            yield Text(f"  … and {len(printed) - _SHOWN_LINES} lines more", "dim")
    if verdict.passed:
        yield Text().append("✓ ", "green").append(file, "bold").append(f"  {exercise.title}")
        yield from _reached(exercise, course)
    elif verdict.empty:
        yield _heading("→ ", file, exercise)
        yield Text(
            f"  {verdict.what} Open {printed_name(course.file(exercise))}: the page is in it."
        )
    else:
        yield _heading("✗ ", file, exercise)
        place = f"  {printed_name(verdict.file)}, line {verdict.line}" if verdict.line else ""
        yield Text(f"  {visible(verdict.what)}")
        for line in (place, f"  {visible(verdict.where)}" if verdict.where else ""):
            if line:
                yield Text(line, "dim")
        yield Text("  minitx learn --hint gives a hint.", "dim")


def _heading(mark: str, file: str, exercise: Exercise) -> Text:
    place = f"  {EXERCISES.index(exercise.name) + 1} of {len(EXERCISES)}"
    return Text().append(mark, "yellow").append(file, "bold").append(f"{place}  {exercise.title}")


def _reached(exercise: Exercise, course: Course) -> Iterator[Text]:
    for chapter in CHAPTERS:
        if chapter.names[-1] == exercise.name and course.has_reached(chapter):
            yield Text()
            yield Text(f"Milestone: {chapter.milestone}.", "bold green")
            yield from question_lines(chapter)
            yield Text()
    if course.next() is None:
        yield Text("That was the last one. You have built a transformer.", "bold")


def question_lines(chapter: Chapter) -> Iterator[Text]:
    """The questions of a chapter, each with the command that shows the answer."""
    yield Text("Questions you can answer now; the command shows it:")
    for question, command in chapter.questions:
        yield Text(f"  {question}")
        yield Text(f"    {command}", "dim")


def hint_lines(exercise: Exercise, number: int, text: str) -> Iterator[Text]:
    """One layer of hints; the last is a solution."""
    layers = len(exercise.hints) + 1
    kind = "a solution" if number == layers else "hint"
    yield Text(f"{exercise.file_name}, {kind} ({number} of {layers})", "bold")
    yield from map(Text, text.rstrip("\n").splitlines())


def status_lines(course: Course) -> Iterator[Text]:
    """Milestones, and the exercises of each."""
    passed = [name for name in EXERCISES if course.has_passed(name)]
    yield Text(f"{len(passed)} of {len(EXERCISES)} exercises have passed.")
    current = course.next()
    for chapter in CHAPTERS:
        reached = course.has_reached(chapter)
        yield Text()
        yield Text().append("✓ " if reached else "· ", "green").append(chapter.milestone, "bold")
        for exercise in chapter.exercises:
            mark = "✓" if exercise.name in passed else "→" if exercise == current else " "
            line = Text(f"  {mark} {exercise.file_name:22}{exercise.title}")
            if hints := course.hints.get(exercise.name):
                line.append(f"  ({hints} hint{'s' if hints > 1 else ''})", "dim")
            yield line
