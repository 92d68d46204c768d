"""The performance page is what its generator prints, from well-formed results."""

import copy
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
    table = {
        "caption": "Who:", "columns": ["who", "tokens/s", "spread"], "rows": [["a|b", "12", "1%"]],
        "labels": 1,
    }  # fmt: skip
    limit = {
        "caption": "Limits:", "columns": ["limit", "measured"], "rows": [["copy", "7 GB/s"]],
        "labels": 1,
    }  # fmt: skip
    target = {"aim": "at least 2", "measured": "1.5", "holds": False}
    machine = {"processor": "one", "GPU": "none"}
    return {
        "name": "speed", "title": "Speed", "about": "How fast.", "tables": [table, limit],
        "targets": [target], "notes": ["A note."], "raw": {}, "command": "python bench/speed.py",
        "machine": machine, "kind": "avx2", **changed,
    }  # fmt: skip


def other_kind(**changed):
    other = copy.deepcopy(result(kind="avx512-bf16", machine={"processor": "two", "GPU": "none"}))
    other["tables"][0]["rows"] = [["a|b", "34", "2%"], ["c", "5", "3%"]]
    other["tables"][1]["rows"] = [["copy", "9 GB/s"]]
    other["targets"][0] = {"aim": "at least 2", "measured": "2.5", "holds": True}
    return {**other, **changed}


def test_page_is_what_the_generator_prints(render):
    assert render.PAGE.read_text() == render.page(render.load_results())


def test_results_have_what_the_generator_reads(render):
    for path in (BENCH / "results").glob("*/*.json"):
        found = json.loads(path.read_text())
        assert set(found) == KEYS, path
        assert found["name"] == path.stem
        assert (BENCH / found["command"].split()[1].removeprefix("bench/")).is_file(), path
        for table in found["tables"]:
            assert all(len(row) == len(table["columns"]) for row in table["rows"]), path


def test_a_number_of_a_result_moves_the_page(render):
    before = render.page([result()])
    assert "| a\\|b | 12 | 1% |" in before
    assert "| at least 2 | 1.5 | **missed** |" in before
    assert "No GPU" in before
    changed = result()
    changed["tables"][0]["rows"][0][1] = "13"
    assert render.page([changed]) != before


def test_kinds_of_machine_stand_side_by_side(render):
    # In whatever order they are found.
    for results in ([result(), other_kind()], [other_kind(), result()]):
        page = render.page(results)
        assert page.count("## Speed") == 1
        assert "| part | AVX2 | AVX512-BF16 |" in page
        assert (
            "| who | on | tokens/s | spread |\n| --- | --- | --- | --- |\n"
            "| a\\|b | AVX2 | 12 | 1% |\n|  | AVX512-BF16 | 34 | 2% |\n"
            "| c | AVX512-BF16 | 5 | 3% |\n"
        ) in page
        assert (
            "| limit | AVX2 | AVX512-BF16 |\n| --- | --- | --- |\n| copy | 7 GB/s | 9 GB/s |\n"
        ) in page
        assert "| at least 2 | 1.5 | **missed** | 2.5 | holds |" in page
        assert page.count("How fast.") == page.count("A note.") == 1
        assert "only" not in page.partition("## Speed")[2]


def test_what_only_one_kind_has_says_so(render):
    page = render.page([result(), other_kind(name="another", title="Another")])
    assert "## Speed\n\nMeasured on AVX2 only.\n" in page
    assert "## Another\n\nMeasured on AVX512-BF16 only.\n" in page
    apart = other_kind(notes=["Another note."], command="python bench/speed.py --long")
    page = render.page([result(), apart])
    assert "AVX2: A note.\n" in page
    assert "AVX512-BF16: Another note.\n" in page
    assert (
        "AVX2:\n\n    python bench/speed.py\n\nAVX512-BF16:\n\n    python bench/speed.py --lo"
        in page
    )
    gpu = result(kind="gpu", machine={"processor": "two", "GPU": "some"}, name="other")
    page = render.page([result(), gpu])
    assert "Measured on the machine with the GPU." in page
    assert "No GPU" not in page


def test_rows_that_a_label_does_not_tell_apart_stay_in_tables_of_their_own(render):
    one, two = result(), other_kind()
    for found in (one, two):
        found["tables"][0]["rows"] = [["text", "plan", "1"], ["", "larger", "2"]]
    page = render.page([one, two])
    assert "AVX2: Who:\n" in page
    assert "AVX512-BF16: Who:\n" in page
    # With two labels, one without text is the one above it.
    for found in (one, two):
        found["tables"][0]["labels"] = 2
    page = render.page([one, two])
    assert "| text | larger | 2 | 2 |" in page


def test_a_second_machine_of_a_kind_is_told_apart(render):
    again = result(name="other", machine={"processor": "newer", "GPU": "none"})
    page = render.page([result(), again])
    assert "| part | AVX2 | AVX2 (2) |" in page
    assert "Measured on AVX2 (2) only." in page
