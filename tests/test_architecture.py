"""What the pages for contributors name is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = ("docs/architecture.md", "CONTRIBUTING.md")
PATH = re.compile(r"`((?:[\w.-]+/)+[\w.-]*|[\w-]+\.(?:py|toml|md|sh))`")


def named_paths(page):
    return sorted(set(PATH.findall((ROOT / page).read_text())))


def is_there(path):
    return any((root / path).exists() for root in (ROOT, ROOT / "src", ROOT / "src/minitx"))


@pytest.mark.parametrize("page", PAGES)
def test_every_path_that_a_page_names_is_there(page):
    paths = named_paths(page)
    assert len(paths) >= 5
    assert [path for path in paths if not is_there(path)] == []


def test_a_path_that_is_gone_would_be_noticed():
    assert PATH.findall("see `model/attention.py` and `gone.py`") == [
        "model/attention.py",
        "gone.py",
    ]
    assert not is_there("model/attention.py")


def test_the_map_names_every_room_and_no_other():
    text = (ROOT / "docs/architecture.md").read_text().split("## The map")[1].split("##")[0]
    named = set(re.findall(r"^ {8}([\w.]+)/? ", text, flags=re.M))
    source = ROOT / "src/minitx"
    rooms = {p.name for p in source.iterdir() if p.is_dir() and p.name != "__pycache__"}
    assert rooms <= named
    assert all((source / name).exists() for name in named)
    assert not {name for name in named if not name.endswith(".py")} - rooms


def test_the_model_is_read_in_one_sitting():
    model = ROOT / "src/minitx/model"
    assert len((model / "transformer.py").read_text().splitlines()) <= 400
    assert sum(len(path.read_text().splitlines()) for path in model.glob("*.py")) <= 700


def test_file_names_tell_files_apart():
    names = [p.name for p in (ROOT / "src/minitx").rglob("*.py") if p.name != "__init__.py"]
    assert sorted(name for name in set(names) if names.count(name) > 1) == []
