"""The notebooks of the course are executed, cell by cell, with the solutions filled in."""

import ast
import json
import shlex
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from minitx.learn.course import CHAPTERS, EXERCISES
from minitx.learn.exercise import read_exercise, unfilled
from minitx.learn.notebooks import notebook_files

NOTEBOOKS = notebook_files()
SMALL = ["--layers", "1", "--heads", "1", "--d-model", "8", "--context", "16", "--threads", "1"]


def cells(name, kind="code"):
    content = json.loads(NOTEBOOKS[name])
    return ["".join(c["source"]) for c in content["cells"] if c["cell_type"] == kind]


def test_all_exercises_are_in_them_in_order_and_with_their_pages():
    assert len(NOTEBOOKS) == len(CHAPTERS)
    written = [cell.split() for name in NOTEBOOKS for cell in cells(name)]
    assert [w[1] for w in written if w[0] == "%%writefile"] == [f"{name}.py" for name in EXERCISES]
    pages = "\n".join(page for name in NOTEBOOKS for page in cells(name, "markdown"))
    for name in EXERCISES:
        for line in read_exercise(name).page.splitlines():
            assert line in pages
    for chapter, name in zip(CHAPTERS, NOTEBOOKS, strict=True):
        assert all(question in cells(name, "markdown") for question in chapter.questions)
        assert all(f"!{command}" in cells(name) for command in chapter.questions.values())


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_they_are_notebooks(name):
    content = json.loads(NOTEBOOKS[name])
    assert (content["nbformat"], content["nbformat_minor"]) == (4, 5)
    ids = [cell["id"] for cell in content["cells"]]
    assert len(set(ids)) == len(ids)
    for cell in content["cells"]:
        assert {"cell_type", "id", "metadata", "source"} <= cell.keys()
        assert 0 < len(cell["id"]) <= 64
        assert set(cell["id"]) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")


@pytest.mark.parametrize("name", EXERCISES)
def test_a_cell_has_the_gaps(name):
    (cell,) = [c for book in NOTEBOOKS for c in cells(book) if c.startswith(f"%%writefile {name}.")]
    code = cell.partition("\n")[2]
    assert unfilled(code, read_exercise(name))
    ast.parse(code)


BOOKS = [
    pytest.param(name, marks=[pytest.mark.campaign] if name.startswith("2-") else [])
    for name in NOTEBOOKS
]
"""The second has half of the course, and takes as long as all others."""


@pytest.mark.parametrize("book", BOOKS)
def test_a_notebook_runs_from_its_first_cell_to_its_last(book, minitx, inside, tiny_run):
    transform = pytest.importorskip("IPython.core.inputtransformer2").TransformerManager()
    assert minitx("learn", "start", ".", "--notebooks").code == 0
    shutil.copytree(tiny_run, inside / "runs/verses-001")
    for chapter in CHAPTERS[: int(book[0]) - 1]:  # Later ones import what earlier ones wrote.
        for name in chapter.names:
            (inside / f"{name}.py").write_text(read_exercise(name).answer)
    said = []

    def write(kind, file, body):
        assert kind == "writefile"
        assert (inside / file).read_text().endswith(body)
        Path(file).write_text(read_exercise(file.removesuffix(".py")).answer)

    def run(line):
        program, *words = shlex.split(line)
        assert program == "minitx"
        words = [w.replace("To be or not to be", "one green").replace("To be", "one")
                 for w in words]  # fmt: skip
        if words[0] == "train":  # The page's run takes a minute.
            words = ["4" if word == "200" else word for word in words] + SMALL
        done = minitx(*words)
        assert done.code == 0, (line, done.err)
        said.append(done.out)

    shell = SimpleNamespace(run_cell_magic=write, system=run)
    names = {"get_ipython": lambda: shell}
    for cell in ("".join(c["source"]) for c in json.loads((inside / book).read_text())["cells"]
                 if c["cell_type"] == "code"):  # fmt: skip
        exec(transform.transform_cell(cell), names)
    exercises = CHAPTERS[int(book[0]) - 1].names
    for name, text in zip(exercises, said, strict=False):
        assert f"✓ {name}.py" in text
    assert len(said) == len(exercises) + len(CHAPTERS[int(book[0]) - 1].questions)
