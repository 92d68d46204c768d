from pathlib import Path

import pytest

from minitx.config import TrainConfig
from minitx.config.overrides import merged, tables_from_options
from minitx.config.toml import build, parse_toml
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
    assert merged(file, {})["train"]["step_decisions"] == ((2, 4), (3, 5))
    assert "step_decisions" not in merged(file, {"train": {"steps": 9}})["train"]
    assert "step_decisions" not in merged(file, {"train": {"budget_seconds": 9.0}})["train"]


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


def test_an_older_run_toml_is_understood(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text("[train]\nsteps = 5\nbudget_seconds = 60.0\nsettlements = [[2, 4], [3, 5]]\n")
    assert merged(file, {})["train"]["step_decisions"] == ((2, 4), (3, 5))
    values = {"batch_size": 1, "learning_rate": 0.1, **parse_toml(file)["train"]}
    assert build(TrainConfig, values, "train").step_decisions == ((2, 4), (3, 5))


@pytest.mark.parametrize("line", ["compile = 3", "compile = 'yes'", "cuda_graph = 1",
                                  "attention = 3", "settlements = 4"])  # fmt: skip
def test_values_of_older_keys_are_checked(tmp_path, line):
    file = tmp_path / "run.toml"
    file.write_text(f"[train]\n{line}\n")
    with pytest.raises(BadInputError, match=r"\[train\].* is .*, not "):
        merged(file, {})
    file.write_text("[train]\ncompile = true\ncuda_graph = false\nattention = 'fused'\n")
    assert merged(file, {})["train"] == {"engine": "torch-compile"}


def test_words_are_sorted_into_tables():
    tables = tables_from_options(
        corpus="corpus.txt", steps=200, layers=2, d_model=64, budget="3m", kind="char", seed=None,
        optimizer_option=["nesterov=true", "lr=0.5", "form=wide"],
    )  # fmt: skip
    assert tables == {
        "data": {"corpus": ("corpus.txt",)},
        "tokenizer": {"kind": "char"},
        "model": {"n_layers": 2, "d_model": 64},
        "train": {
            "steps": 200,
            "budget_seconds": 180.0,
            "optimizer_options": {"nesterov": True, "lr": 0.5, "form": "wide"},
        },
    }
    same = tables_from_options(corpus=[Path("a"), "b"], optimizer_option={"lr": 1}, budget="90s")
    assert same["data"] == {"corpus": ("a", "b")}
    assert same["train"] == {"optimizer_options": {"lr": 1}, "budget_seconds": 90.0}


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"layer": 2}, "there is no option layer. Did you mean layers"),
        ({"n_layers": 2}, "there is no option n_layers. Did you mean layers"),
        ({"xyz": 2}, "there is no option xyz. See minitx train --help"),
        ({"step_decisions": ()}, "there is no option step_decisions"),
        ({"layers": "two"}, "n_layers is 'two', not a whole number"),
        ({"budget": "soon"}, "--budget is 'soon'"),
        ({"budget": 90}, "--budget is '90', which has no unit"),
        ({"budget": 1.5}, "--budget is '1.5', which has no unit"),
        ({"optimizer_option": ["nesterov"]}, "--optimizer-option is 'nesterov'"),
        ({"optimizer_option": 3}, "optimizer_options is 3, not a table"),
        ({"corpus": 3}, "corpus is 3, not a list"),
    ],
)
def test_mistakes_in_words_are_named(options, told):
    with pytest.raises(BadInputError, match=told):
        tables_from_options(**options)


def test_settings_of_an_optimizer_are_merged_by_key(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text("[train.optimizer_options]\nlr = 1\nname = 'x'\n")
    flags = tables_from_options(optimizer_option=["lr=2"])
    assert merged(file, flags)["train"] == {"optimizer_options": {"lr": 2, "name": "x"}}
