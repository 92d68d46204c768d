"""The course for Jupyter: a notebook for each chapter, made from the exercises.

A cell writes the learner's file and the next one has it judged, so that a notebook and the command
line have one course, one judge and one progress.
"""

from __future__ import annotations

from typing import Any

from minitx.files import json_bytes
from minitx.learn.course import CHAPTERS, Chapter
from minitx.learn.exercise import Exercise


def notebook_files() -> dict[str, str]:
    """Each notebook's name and content."""
    return {
        f"{number}-{chapter.milestone.replace(' ', '-')}.ipynb": _notebook(chapter, number)
        for number, chapter in enumerate(CHAPTERS, start=1)
    }


def _notebook(chapter: Chapter, number: int) -> str:
    head = (
        f"# {number}. Until: {chapter.milestone}\n\nFill in the gaps (`...  # your code here`), "
        "run the cell, which writes your file, and the one below it, which says what is wrong."
    )
    cells = [_cell("markdown", "head", head)]
    for exercise in chapter.exercises:
        check = f"!minitx learn --exercise {exercise.name}"
        cells += [
            _cell("markdown", f"{exercise.name}-page", page_markdown(exercise)),
            _cell("code", exercise.name, f"%%writefile {exercise.file_name}\n{exercise.gap_code}"),
            _cell("code", f"{exercise.name}-check", check),
            _cell("code", f"{exercise.name}-hint", f"# {check} --hint"),
        ]
    asks = (
        "## Questions\n\nThe commands ask a model of minitx. If there is none here, the next cell "
        "trains one in a minute, on the text that comes with Python."
    )
    text = (
        "from pathlib import Path\nfrom pydoc_data.topics import topics\n\n"
        'if not Path("corpus.txt").exists():\n'
        '    Path("corpus.txt").write_text("".join(topics.values()), encoding="utf-8")\n'
        'if not Path("runs").exists():\n    !minitx train corpus.txt --budget 1m'
    )
    cells += [_cell("markdown", "questions", asks), _cell("code", "corpus", text)]
    for index, (question, command) in enumerate(chapter.questions.items()):
        cells.append(_cell("markdown", f"question-{index}", question))
        cells.append(_cell("code", f"answer-{index}", f"!{command}"))
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    made: dict[str, Any] = {
        "cells": cells,
        "metadata": {"kernelspec": kernel, "language_info": {"name": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return json_bytes(made).decode()


def page_markdown(exercise: Exercise) -> str:
    """The page as Markdown: its title as a heading, its papers and places as a list."""
    lines = exercise.page.splitlines()[1:]
    marked = [f"- {line}" if line.startswith(("Paper:", "In minitx:")) else line for line in lines]
    return "\n".join([f"## {exercise.title}", *marked])


def _cell(kind: str, name: str, source: str) -> dict[str, Any]:
    cell: dict[str, Any] = {"cell_type": kind, "id": name.replace("_", "-"), "metadata": {}}
    if kind == "code":
        cell |= {"execution_count": None, "outputs": []}
    return cell | {"source": source.rstrip("\n").splitlines(keepends=True)}
