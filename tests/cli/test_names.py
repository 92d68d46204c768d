"""Names of files and runs: no UTF-8, control characters, what a terminal obeys."""

import json
import os
import shlex
import shutil
import subprocess

import pytest

from minitx.files import shell_word

CONTROLS, BYTES, DASH = NAMES = ["b\x1b[31m\nad\t\x9b\u202e", "b\udcffad", "-bad name'"]
SMALL = ["--steps", 2, "--layers", 1, "--d-model", 8, "--heads", 1, "--context", 8, "--threads", 1]
READERS = [
    ["generate", "--prompt", "1 green", "--max-new-tokens", 3],
    ["generate", "--prompt", "1 green", "--max-new-tokens", 3, "--json"],
    ["eval", "--quick", "--holdout"],
    ["eval", "--quick", "--json"],
    ["attn", "--prompt", "1 green"],
    ["attn", "--prompt", "1 green", "--json"],
    ["diagnose"],
    ["diagnose", "--json"],
    ["profile", "--steps", 1],
    ["profile", "--steps", 1, "--json"],
    ["report", "--no-eval"],
    ["tokenize", "--text", "1 green", "--tokenizer"],
]


def assert_printed(done, code=0):
    assert done.code == code, done.err
    assert "Traceback" not in done.err
    said = done.out + done.err
    assert not set("\x1b\x9b\u202e\udcff") & set(said)
    if done.out.startswith("{"):
        for line in done.out.splitlines():
            json.loads(line)


def test_a_run_whose_path_is_not_utf8_is_refused_by_every_command(minitx, inside, tiny_run):
    shutil.copytree(tiny_run, inside / BYTES)
    for command in [*READERS, ["resume"]]:
        done = minitx(*command, inside / BYTES)
        assert_printed(done, 2)
        assert done.err.count("\n") == 1
        assert "is not UTF-8" in done.err


def test_a_run_of_any_other_name_is_read_by_every_command(minitx, inside, tiny_run):
    name = CONTROLS
    run = inside / name
    shutil.copytree(tiny_run, run)
    for command in READERS:
        assert_printed(minitx(*command, run))
    assert_printed(minitx("resume", run), 2)
    assert_printed(minitx("resume", run, "--steps", 121))
    for flag in ("--html", "--npz"):
        assert_printed(minitx("attn", run, "--prompt", "1 green", flag, inside / f"{name}x"))
    assert_printed(minitx("report", run, "--no-eval", "--out", inside / f"{name}.html"))
    assert_printed(minitx("tokenize", "--tokenizer", run, "--text", "1", "--out", inside / "t"))
    assert_printed(minitx("generate", run, "--prompt", "1", "--top-k", 0), 2)


def test_what_is_said_to_do_next_names_the_run(minitx, inside, tiny_run, monkeypatch):
    for name in NAMES:
        word = shell_word(name)
        assert word.isprintable()
        done = subprocess.run(["bash", "-c", f"printf %s {word}"], capture_output=True)
        assert os.fsdecode(done.stdout).removeprefix("./") == name
    assert shell_word("runs/a-001") == "runs/a-001"
    monkeypatch.chdir(inside)
    shutil.copytree(tiny_run, DASH)
    done = minitx("resume", f"./{DASH}", "--steps", 121)
    commands = [line.strip() for line in done.out.splitlines() if line.startswith("  minitx ev")]
    assert len(commands) == 1
    assert minitx(*shlex.split(commands[0])[1:], "--quick").code == 0


@pytest.mark.parametrize("name", [CONTROLS, BYTES], ids=range(2))
def test_a_run_that_could_not_be_named_is_refused(minitx, inside, verses, name):
    done = minitx("train", verses, *SMALL, "--out", inside / "new" / name)
    assert_printed(done, 2)
    assert done.err.count("\n") == 1
    assert "has control characters, or is not UTF-8" in done.err
    assert os.listdir(inside) == []


@pytest.mark.parametrize("given", ["the name", "its directory", "the holdout", "a pattern"])
def test_a_text_that_is_not_utf8_by_name_is_refused_before_it_is_read(
    minitx, inside, verses, given
):
    directory = inside / "b\udcffad" if given == "its directory" else inside / "texts"
    directory.mkdir()
    text = directory / ("a.txt" if given == "its directory" else "b\udcffad.txt")
    shutil.copy(verses, text)
    sources = {"the holdout": [verses, "--holdout", text], "a pattern": [f"{directory}/b\udcff*"]}
    done = minitx("train", *sources.get(given, [text]), *SMALL)
    assert_printed(done, 2)
    assert done.err.count("\n") == 1
    assert "not UTF-8" in done.err
    assert not (inside / "runs").exists()


def test_texts_of_any_name_are_read(minitx, inside, tiny_run, verses):
    for name in NAMES:
        path = inside / f"{name}.txt"
        shutil.copy(verses, path)
        assert_printed(minitx("eval", tiny_run, path, "--quick"))
        assert_printed(minitx("eval", tiny_run, path, "--quick", "--json"))
        assert_printed(minitx("tokenize", path))
        assert_printed(minitx("tokenize", path, "--tokenizer", tiny_run, "--json"))
        path.write_text("1 green")
        assert_printed(minitx("generate", tiny_run, "--prompt-file", path, "--max-new-tokens", 2))
    assert_printed(minitx("train", inside / f"{NAMES[0]}.txt", verses, *SMALL))
    assert_printed(minitx("report"))


def test_a_working_directory_of_any_name(minitx, inside, verses, monkeypatch):
    for name in (CONTROLS, BYTES):
        (inside / name).mkdir()
        monkeypatch.chdir(inside / name)
        shutil.copy(verses, "a.txt")
        done = minitx("train", "a.txt", *SMALL)
        assert_printed(done, done.code and 2)
        assert done.code == 0 or os.listdir() == ["a.txt"]
        for command in READERS[:-1] if done.code == 0 else []:
            assert_printed(minitx(*command))  # of the newest run


def test_clients_of_a_served_run_read_its_name(inside, tiny_run):
    from minitx.workflows.load import load
    from minitx.workflows.serve import describe

    shutil.copytree(tiny_run, inside / CONTROLS)
    assert describe(load(inside / CONTROLS)).name.isprintable()
