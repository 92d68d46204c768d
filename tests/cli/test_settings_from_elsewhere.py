"""Settings that are not typed: variables and the example config; and what a shell shows."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from documented import ROOT
from typer.main import get_command

from minitx.cli.app import app
from minitx.cli.man_page import man_page
from minitx.cli.variables import OTHERS, command_line, commands_of, options_in
from minitx.config.overrides import merged

SIZES = ["--layers", 1, "--heads", 1, "--d-model", 16, "--context", 16, "--log-every", 1]


# ---- variables -----------------------------------------------------------------------------------


def test_every_flag_of_every_command_has_its_variable():
    root = command_line(app)
    names = [option.envvar for _, command in commands_of(root) for option in options_in(command)]
    assert len(names) == len(set(names)) > 200
    assert {"MINITX_TRAIN_BATCH_SIZE", "MINITX_TRAIN_NO_CHECK", "MINITX_RUNS_RM_YES",
            "MINITX_ATTN_ASCII", "MINITX_LEARN_STATUS_DIR"} <= set(names)  # fmt: skip
    assert not set(OTHERS) & set(names)
    text = " ".join((ROOT / "docs/runs.md").read_text().split())
    assert "MINITX_TRAIN_BATCH_SIZE" in text


def test_a_variable_counts_as_its_flag_and_a_flag_wins(minitx, inside, verses, monkeypatch):
    monkeypatch.setenv("MINITX_TRAIN_STEPS", "3")
    monkeypatch.setenv("MINITX_TRAIN_OUT", "here")
    monkeypatch.setenv("MINITX_TRAIN_OPTIMIZER_OPTION", "")
    monkeypatch.setenv("MINITX_TRAIN_SKIP_BAD", "1")
    assert minitx("train", verses, *SIZES).code == 0
    shown = json.loads(minitx("runs", "show", "here", "--json").out)
    assert shown["config"]["train"]["steps"] == 3
    assert shown["config"]["data"]["skip_bad"] is True
    assert minitx("train", verses, *SIZES, "--steps", 2, "--out", "there").code == 0
    assert json.loads(minitx("runs", "show", "there", "--json").out)["step"] == 2
    monkeypatch.setenv("MINITX_RUNS_SHOW_JSON", "1")
    assert json.loads(minitx("runs", "show", "there").out)["step"] == 2


def test_several_values_stand_between_spaces(minitx, inside, verses, monkeypatch):
    monkeypatch.setenv("MINITX_TRAIN_LOG_TO", "nothing else")
    done = minitx("train", verses, *SIZES, "--steps", 2)
    assert done.code == 2
    assert "logger is 'nothing'" in done.err


@pytest.mark.parametrize(
    ("variable", "value", "command", "told"),
    [
        ("MINITX_TRAIN_STEPS", "many", ["train", "none.txt"], "--steps"),
        ("MINITX_TRAIN_LAYERS", "0", ["train", "none.txt"], "n_layers is 0"),
        ("MINITX_TRAIN_BUDGET", "3", ["train", "none.txt"], "--budget is '3'"),
        ("MINITX_TRAIN_DECAY", "steep", ["train", "none.txt"], "decay is 'steep'"),
        ("MINITX_TRAIN_SKIP_BAD", "perhaps", ["train", "none.txt"], "--skip-bad"),
        ("MINITX_GENERATE_TOP_P", "2", ["generate", "--prompt", "x"], "top_p is 2.0"),
        ("MINITX_LEARN_STATUS_DIR", "", ["learn", "status"], ""),
    ],
)
def test_a_bad_value_is_told_naming_the_variable(
    minitx, inside, tiny_run, monkeypatch, variable, value, command, told
):
    shutil.copytree(tiny_run, inside / "runs/a")
    (inside / "none.txt").write_text("some text " * 200)
    monkeypatch.setenv(variable, value)
    done = minitx(*command)
    assert done.code == 2
    (line,) = [line for line in done.err.splitlines() if line.startswith("error")]
    assert line.startswith(f"error: {variable}: ") == bool(told)
    assert told in line


def test_a_flag_that_is_wrong_itself_is_not_blamed_on_a_variable(minitx, inside, monkeypatch):
    monkeypatch.setenv("MINITX_TRAIN_LAYERS", "2")
    (inside / "a.txt").write_text("some text " * 200)
    for flag in (["--layers", 0], ["--layers=0"]):
        assert "MINITX_TRAIN" not in minitx("train", "a.txt", *flag).err


def test_a_variable_with_a_typing_error_is_warned_of(minitx, inside, tiny_run, monkeypatch):
    shutil.copytree(tiny_run, inside / "runs/a")
    monkeypatch.setenv("MINITX_RUNS_JSN", "1")
    monkeypatch.setenv("MINITX_TRAIN_STEP", "1")
    done = minitx("runs")
    assert done.code == 0
    assert done.err == (
        "warning: MINITX_RUNS_JSN is no option of minitx runs. Did you mean MINITX_RUNS_JSON?\n"
    )


def test_help_shows_no_variables(minitx):
    assert "MINITX_" not in minitx("train", "--help").out


# ---- the config ----------------------------------------------------------------------------------


def test_the_example_config_is_read_and_trains(minitx, inside):
    example = ROOT / "docs/example.toml"
    tables = merged(example, {})
    assert tables["train"]["steps"] == 40
    # What is commented out can be used, too.
    text = re.sub(r"^# (\w+ = )", r"\1", example.read_text(), flags=re.M)
    assert text != example.read_text()
    (inside / "all.toml").write_text(text)
    assert set(merged(inside / "all.toml", {})["data"]) > set(tables["data"])
    (inside / "corpus.txt").write_text("To be, or not to be. " * 300)
    done = minitx("train", "--config", example, "--steps", 3)
    assert done.code == 0, done.err
    shown = json.loads(minitx("runs", "show", "corpus-001", "--json").out)
    for name in ("tokenizer", "model", "train"):
        given = {
            key: value for key, value in tables[name].items() if key not in ("steps", "device")
        }
        assert given.items() <= shown["config"][name].items()


# ---- what a shell shows --------------------------------------------------------------------------


def completed(line, directory, blocked):
    words = line.split(" ")
    env = {**os.environ, "_MINITX_COMPLETE": "complete_bash", "COMP_WORDS": line,
           "COMP_CWORD": str(len(words) - 1), "PYTHONPATH": blocked}  # fmt: skip
    command = [sys.executable, "-m", "minitx"]
    done = subprocess.run(command, env=env, cwd=directory, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_completion_needs_no_torch_and_knows_commands_flags_and_runs(inside, tiny_run):
    (inside / "block").mkdir()
    (inside / "block/sitecustomize.py").write_text(
        "import sys\nfor name in ('torch', 'numpy'): sys.modules[name] = None\n"
    )
    blocked = os.pathsep.join([str(inside / "block"), *sys.path])
    shutil.copytree(tiny_run, inside / "runs/verses-001")
    shutil.copytree(tiny_run, inside / "runs/other")
    assert completed("minitx tr", inside, blocked) == ["train"]
    assert completed("minitx train --learning", inside, blocked) == ["--learning-rate"]
    assert completed("minitx resume ve", inside, blocked) == ["verses-001"]
    assert completed("minitx runs show ", inside, blocked) == ["other", "verses-001"]
    assert completed("minitx runs re", inside, blocked) == ["rename"]
    assert completed("minitx generate runs/", inside, blocked) == []


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_completion_is_installed(inside):
    env = {**os.environ, "HOME": str(inside)}
    command = f"{sys.executable} -m minitx --install-completion; true"
    done = subprocess.run(["bash", "-c", command], env=env, capture_output=True, text=True)
    assert "completion installed" in done.stdout, done.stderr
    script = next(inside.glob(".bash_completions/minitx.sh"))
    assert "minitx" in (inside / ".bashrc").read_text()
    check = f"source {script}; complete -p minitx"
    assert "-F _minitx_completion" in subprocess.check_output(["bash", "-c", check], text=True)


def test_the_manual_page_has_every_command_and_option(minitx, tmp_path):
    page = minitx("man").out
    assert page == man_page(get_command(app))
    plain = page.replace(r"\-", "-")
    for words, command in commands_of(get_command(app)):
        if words:
            assert f'.SS "{" ".join(["minitx", *words])}' in plain
        for parameter in command.params if words else []:
            for name in [*parameter.opts, *parameter.secondary_opts]:
                shown = f"\\fB{name}\\fR" if name.startswith("-") else name.upper()
                assert shown in plain
    for code in (2, 3, 4, 5, 6, 130):
        assert f".TP\n\\fB{code}\\fR\n" in page


@pytest.mark.skipif(shutil.which("groff") is None, reason="no groff")
def test_the_manual_page_is_sound_roff(tmp_path):
    trap = typer.Typer(help="'quoted first\n\n.period first")

    @trap.command("one")
    def one(
        a: str = typer.Option("x", help=r".TH of \n, \fB and 'this'"),
        b: str = typer.Argument("x", help="'"),
    ) -> None:
        """.SH trap.

        minitx one "quoted" \\n
        """

    trap.callback()(lambda: None)
    for number, made in enumerate((app, trap)):
        path = tmp_path / f"{number}.1"
        path.write_text(man_page(get_command(made)), encoding="utf-8")
        command = ["groff", "-man", "-ww", "-Kutf8", "-Tutf8", str(path)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0
        assert done.stderr == ""
    assert r".TH of \n, \fB and 'this'" in done.stdout
    assert '"quoted"' in done.stdout


def test_the_manual_page_opens_in_man_on_a_terminal(monkeypatch, minitx, tmp_path):
    seen = []
    monkeypatch.setattr("shutil.which", lambda name: "man")
    monkeypatch.setattr("minitx.cli.man_page.sys.stdout.isatty", lambda: True)
    monkeypatch.setattr(
        "minitx.cli.man_page.subprocess.run",
        lambda command, check: seen.append(Path(command[1]).read_text("utf-8")),
    )
    assert minitx("man").out == ""
    assert seen == [man_page(get_command(app))]
