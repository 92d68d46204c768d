"""What `minitx learn` shows: a verdict, a hint, and how far one is."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType
from rich.padding import Padding
from rich.text import Text

from minitx.learn.checking import Checked
from minitx.learn.course import CHAPTERS, EXERCISES
from minitx.learn.exercise import SCRIPT, Exercise
from minitx.learn.progress import Course
from minitx.report.terminal.printable import printed_name, visible

_SHOWN_LINES = 12


def checked_lines(checked: Checked, course: Course) -> Iterator[RenderableType]:
    """What was said of an exercise, and what to do now."""
    verdict, exercise = checked.verdict, checked.exercise
    printed = visible(verdict.printed).strip("\n").splitlines()
    if printed:
        yield Text(f"{exercise.file_name} printed:", "dim")
        more = len(printed) - _SHOWN_LINES
        shown = [*printed[:_SHOWN_LINES], *([f"… and {more} lines more"] if more > 0 else [])]
        yield from (_indented(line, "dim") for line in shown)
    mark, style = ("✓", "green") if verdict.passed else ("→✗"[not verdict.empty], "yellow")
    title = Text().append(f"{mark} ", style).append(exercise.file_name, "bold")
    place = f"{EXERCISES.index(exercise.name) + 1} of {len(EXERCISES)}"
    yield title.append(f"  {place}  {exercise.title}")
    if verdict.passed:
        path, name = exercise.place.split(": ")
        yield _indented(f"In minitx: {path}, line {exercise.line}: {name}", "dim")
        yield from _reached(exercise, course)
        return
    yield _indented(visible(verdict.what))
    if verdict.empty:
        yield _indented(f"The page is in {printed_name(exercise.file_name)}.")
        return
    if verdict.line:
        yield _indented(f"{printed_name(verdict.file)}, line {verdict.line}", "dim")
    if verdict.where:
        yield _indented(visible(verdict.where), "dim")
    changed = [name for name in exercise.uses if not course.has_passed(name)]
    if changed:
        names = " and ".join(f"{name}.py" for name in changed)
        yield _indented(
            f"It uses {names}, not passed yet or changed since: the fault may be there."
        )
    yield _indented("minitx learn --hint gives a hint.", "dim")


def _indented(text: str, style: str = "") -> Padding:
    return Padding.indent(Text(text, style), 2)


def _reached(exercise: Exercise, course: Course) -> Iterator[Text]:
    for chapter in CHAPTERS:
        if chapter.names[-1] == exercise.name and course.has_reached(chapter):
            yield Text()
            yield Text(f"Milestone: {chapter.milestone}.", "bold green")
            yield Text("Questions you can answer now, each with a command that shows the answer.")
            yield Text(
                "First train on a text of your own, here corpus.txt: minitx train corpus.txt"
            )
            for question, command in chapter.questions.items():
                yield Text(f"  {question}")
                yield Text(f"    {command}", "dim")
            yield Text()
    if course.next() is None:
        yield Text("That was the last one. You have built a transformer; see it at work:", "bold")
        yield Text(f"  python {SCRIPT}")


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
            line = Text(f"  {mark} {exercise.file_name:21}{exercise.title}")
            if hints := course.hints.get(exercise.name):
                line.append(f"  {hints} hint{'s' if hints > 1 else ''}", "dim")
            yield line
