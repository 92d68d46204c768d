"""The performance page is what its generator prints, from well-formed results."""

import importlib.util
import json
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[1] / "bench"
KEYS = {"name", "title", "about", "tables", "targets", "notes", "raw", "command", "machine"}


@pytest.fixture(scope="module")
def render():
    spec = importlib.util.spec_from_file_location("bench_render", BENCH / "render.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def result(**changed):
    table = {"caption": "Who:", "columns": ["who", "tokens/s"], "rows": [["a|b", "12"]]}
    target = {"aim": "at least 2", "measured": "1.5", "holds": False}
    machine = {"processor": "one", "GPU": "none"}
    return {
        "name": "speed", "title": "Speed", "about": "How fast.", "tables": [table],
        "targets": [target], "notes": ["A note."], "raw": {}, "command": "python bench/speed.py",
        "machine": machine, **changed,
    }  # fmt: skip


def test_page_is_what_the_generator_prints(render):
    assert render.PAGE.read_text() == render.page(render.load_results())


def test_results_have_what_the_generator_reads(render):
    for path in (BENCH / "results").glob("*.json"):
        found = json.loads(path.read_text())
        assert set(found) == KEYS, path.name
        assert found["name"] == path.stem
        assert (BENCH / found["command"].split()[1].removeprefix("bench/")).is_file(), path.name
        for table in found["tables"]:
            assert all(len(row) == len(table["columns"]) for row in table["rows"]), path.name


def test_a_number_of_a_result_moves_the_page(render):
    before = render.page([result()])
    assert "| a\\|b | 12 |" in before
    assert "| at least 2 | 1.5 | **missed** |" in before
    assert "No GPU" in before
    changed = result()
    changed["tables"][0]["rows"][0][1] = "13"
    assert render.page([changed]) != before


def test_results_of_two_machines_say_which(render):
    other = result(name="other", machine={"processor": "two", "GPU": "some"})
    page = render.page([result(), other])
    assert "## Machine 1" in page
    assert "Measured on machine 2." in page
    assert "No GPU" not in page
