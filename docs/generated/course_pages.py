"""The course as pages: one for each chapter, and the source files that its exercises lead to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import minitx
from minitx.learn.course import CHAPTERS, Chapter
from minitx.learn.exercise import Exercise
from minitx.learn.notebooks import page_markdown

SOURCE = Path(str(minitx.__file__)).parent


def course_pages() -> Iterator[tuple[str, str]]:
    """Path and Markdown of each page."""
    for number, chapter in enumerate(CHAPTERS, start=1):
        yield f"learn/chapter-{number}.md", _chapter(chapter, number)
    paths = {exercise.place.split(": ")[0] for c in CHAPTERS for exercise in c.exercises}
    for path in sorted(paths):
        text = (SOURCE / path).read_text(encoding="utf-8")
        code = f'```python linenums="1"\n{text}```\n'
        yield f"reference/{_page(path)}.md", f"# {path}\n\n{code}"


def _chapter(chapter: Chapter, number: int) -> str:
    lessons = ", ".join(f"[{name}]({name}.md)" for name in chapter.lessons)
    parts = [
        f"# {number}. {chapter.milestone.capitalize()}",
        f"Read first: {lessons}. Then write it yourself: `minitx learn start course` lays out the "
        "files, and `minitx learn` says what is wrong ([how it works](course.md)).",
    ]
    for exercise in chapter.exercises:
        parts += [page_markdown(exercise), _link(exercise)]
    parts.append("## Questions\n\nOf an interview; the command shows the answer.")
    for question, command in chapter.questions.items():
        parts.append(f"**{question}**\n\n```sh\n{command}\n```")
    return "\n\n".join(parts) + "\n"


def _link(exercise: Exercise) -> str:
    path, name = exercise.place.split(": ")
    # As HTML: lines of code are no headings, which are all that mkdocs looks for.
    address = f"../reference/{_page(path)}.html#__codelineno-0-{exercise.line}"
    return (
        f"File: `{exercise.file_name}`. The same in minitx: "
        f'<a href="{address}">{path}, line {exercise.line}</a>: `{name}`.'
    )


def _page(path: str) -> str:
    return path.removesuffix(".py").replace("/", "-")
