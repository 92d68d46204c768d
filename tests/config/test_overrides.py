import pytest

from minitx.config.overrides import merged
from minitx.errors import BadInputError


def test_flags_win_over_the_file(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text("[train]\nsteps = 5\nseed = 1\n[model]\nn_layers = 3\nvocab_size = 9\n")
    tables = merged(file, {"train": {"seed": 2, "batch_size": None}, "model": {}})
    assert tables == {
        "data": {}, "tokenizer": {}, "model": {"n_layers": 3}, "train": {"steps": 5, "seed": 2}
    }  # fmt: skip


def test_without_a_file():
    assert merged(None, {"train": {"steps": 3}})["train"] == {"steps": 3}


def test_a_budget_replaces_the_steps_of_the_file(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text("[train]\nsteps = 5\nbudget_seconds = 60.0\n")
    assert merged(file, {"train": {"steps": None, "budget_seconds": 9.0}})["train"] == {
        "budget_seconds": 9.0
    }
    assert merged(file, {"train": {"steps": 7, "budget_seconds": None}})["train"] == {"steps": 7}
    both = merged(file, {"train": {"steps": 7, "budget_seconds": 9.0}})["train"]
    assert both == {"steps": 7, "budget_seconds": 9.0}


def test_another_length_drops_what_a_clock_decided(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text("[train]\nsteps = 5\nbudget_seconds = 60.0\nsettlements = [[2, 4], [3, 5]]\n")
    assert merged(file, {})["train"]["settlements"] == ((2, 4), (3, 5))
    assert "settlements" not in merged(file, {"train": {"steps": 9}})["train"]
    assert "settlements" not in merged(file, {"train": {"budget_seconds": 9.0}})["train"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[trian]\nsteps = 5\n", r"unknown table \[trian\]"),
        ("train = 5\n", "train is not a table"),
        ("[train]\nstep = 5\n", "unknown key 'step'"),
        ("[train\n", "is not TOML"),
    ],
)
def test_mistakes_in_the_file_are_named(tmp_path, text, told):
    file = tmp_path / "mine.toml"
    file.write_text(text)
    with pytest.raises(BadInputError, match=told):
        merged(file, {})
