import shlex
from pathlib import Path

import pytest

from minitx.report.terminal.printable import run_path
from minitx.report.training.training_report import next_steps


def test_commands_with_a_relative_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert next_steps(tmp_path / "runs" / "plays-0001", "ROMEO:\n", steps=4000) == [
        "minitx generate runs/plays-0001 --prompt ROMEO: --top-k 40",
        "minitx eval runs/plays-0001 --holdout",
        "minitx attn runs/plays-0001 --prompt ROMEO:",
        "minitx report runs/plays-0001",
        "minitx resume runs/plays-0001 --steps 4000",
    ]
    assert next_steps(Path("runs/a"))[0] == "minitx generate runs/a --prompt The --top-k 40"
    assert next_steps(Path("runs/a"))[-1] == "minitx resume runs/a --steps N"


def test_an_interrupted_run_is_finished_first():
    commands = next_steps(Path("runs/a"), interrupted=True)
    assert commands[0] == "minitx resume runs/a"
    assert len(commands) == 5


def test_paths_outside_the_working_directory_stay_as_given(tmp_path, monkeypatch):
    inside = tmp_path / "here"
    inside.mkdir()
    monkeypatch.chdir(inside)
    assert run_path(tmp_path / "run") == str(tmp_path / "run")
    assert run_path(Path("../run")) == "../run"
    assert run_path(inside / "x" / ".." / "run") == "run"


def test_a_prompt_with_a_quote_stays_readable():
    assert "--prompt \">>> c['red']\" --top-k" in next_steps(Path("runs/a"), ">>> c['red']")[0]
    assert shlex.split(next_steps(Path("runs/a"), "it's $5!")[0])[4] == "it's $5!"


@pytest.mark.parametrize(
    ("prompt", "shown"),
    [
        ("", "The"),
        ("\n\n  \n", "The"),
        ("bell\x07", "The"),
        ("\n\n  To be, or\nnot", "To be, or"),
        ("It's a 'quoted' one", "It's a 'quoted' one"),
        ("one two three four five six seven", "one two three four five"),
        ("x" * 30 + " y", "x" * 30),
    ],
)
def test_prompts_are_short_and_quoted(prompt, shown):
    arguments = shlex.split(next_steps(Path("my runs/a"), prompt)[0])
    assert arguments == ["minitx", "generate", "my runs/a", "--prompt", shown, "--top-k", "40"]
