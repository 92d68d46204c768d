"""`minitx runs`: what it says of runs, and that nothing is removed by halves."""

import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
from rich.console import Console

from minitx.checkpoint import run_changes
from minitx.checkpoint.manifest import manifest_bytes
from minitx.checkpoint.run_changes import all_runs, disk_bytes, prunable, remove_run
from minitx.checkpoint.rundir import RunDirectory, is_run, newest_run
from minitx.errors import BadInputError
from minitx.report.terminal.runs_view import run_facts, runs_table
from minitx.training.logging.metrics_file import metrics_line, read_metrics
from minitx.workflows.many_runs import differences, facts, overview


def change_metrics(run, change):
    path = run / "metrics.jsonl"
    lines = [changed for line in read_metrics(path) if (changed := change(line)) is not None]
    path.write_bytes(b"".join(map(metrics_line, lines)))


@pytest.fixture
def runs(inside, tiny_run):
    """Copies a finished run into `runs/`, linked to one text as training does."""

    def add(name, change=None, holdout=None):
        run = inside / "runs" / name
        shutil.copytree(tiny_run, run)
        if change is not None:
            change_metrics(run, change)
        if holdout is not None:
            (run / "data" / "holdout.txt").write_text(holdout)
        return run

    return add


@contextlib.contextmanager
def trained_elsewhere(run):
    """Another process holds the run's lock."""
    code = (
        "import sys; from pathlib import Path; from minitx.checkpoint.lock import run_lock\n"
        "with run_lock(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(run / "lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"held\n"
        yield
        process.stdin.close()


def without_end(line):
    return None if line["kind"] == "end" else line


def test_state_is_what_the_lock_and_the_run_say(runs):
    runs("finished")
    runs("crashed", without_end)
    runs("stopped", lambda line: {**line, "reason": "interrupted"} if "reason" in line else line)
    running = runs("running", without_end)
    with trained_elsewhere(running):
        found = {run.name: run for run in overview(all_runs())}
    assert {name: run.state for name, run in found.items()} == {name: name for name in found}
    assert len(found) == 4
    assert {run.state for run in overview([running])} == {"crashed"}
    assert found["finished"].step == found["finished"].steps == 120
    assert found["crashed"].step == 120


def test_the_last_logged_step_counts_where_no_evaluation_follows(runs):
    run = runs("a", lambda line: line if line["step"] <= 50 and line["kind"] == "step" else None)
    shutil.rmtree(run / "checkpoints")
    assert overview([run])[0].step == 48


def test_the_figure_is_that_of_the_best_evaluation(runs):
    run = runs("a")
    evaluations = [line for line in read_metrics(run / "metrics.jsonl", ["evaluation"])
                   if line["kind"] == "evaluation"]  # fmt: skip
    best = min(evaluations, key=lambda line: line["holdout_loss"])
    (summary,) = overview([run])
    assert summary.bits_per_byte == best["holdout_bits_per_byte"]
    assert (summary.best_step, summary.scored) == (best["step"], 1.0)
    assert summary.size == sum(f.stat().st_size for f in run.rglob("*") if f.is_file())


def better(by):
    def change(line):
        bits = line.get("holdout_bits_per_byte")
        return line if bits is None else {**line, "holdout_bits_per_byte": bits - by}

    return change


def test_runs_on_the_same_holdout_stand_together_the_best_first(runs, inside):
    text = (runs("c") / "data/holdout.txt").read_text()
    linked, other = runs("b", better(0.1)), runs("z", better(9.0), holdout=text.swapcase())
    (linked / "data/holdout.txt").unlink()
    os.link(inside / "runs/c/data/holdout.txt", linked / "data/holdout.txt")
    runs("a", better(0.2)), runs("y", better(5.0), holdout=text[:100])
    os.utime(other / "metrics.jsonl", (1, 1))
    for name in ("run.toml", "last"):
        os.utime(other / name, (1, 1))
    found = overview(all_runs())
    names = [run.name for run in found]
    assert [name for name in names if name in "abc"] == ["a", "b", "c"]
    assert names[-1] == "z", "its group was trained longest ago"
    groups = {run.name: run.group for run in found}
    assert groups["a"] == groups["b"] == groups["c"]
    assert len({groups["a"], groups["y"], groups["z"]}) == 3


def test_runs_without_a_holdout_compare_with_none(runs):
    runs("a", holdout=""), runs("b", holdout="")
    assert len({run.group for run in overview(all_runs())}) == 2


def test_a_part_of_the_holdout_is_marked(runs, minitx):
    runs("a", lambda line: {**line, "holdout_tokens": 40} if "holdout_tokens" in line else line)
    assert 0 < overview(all_runs())[0].scored < 0.1
    assert "~ was measured on a part" in minitx("runs").out


def test_damage_hides_no_run(runs, minitx):
    (runs("a") / "run.toml").write_text("x = ")
    run = runs("b")
    shutil.rmtree(run / "checkpoints"), (run / "run.toml").unlink()
    (run / "checkpoints").mkdir()
    (run / "metrics.jsonl").write_bytes(b"\xff\x00{[\n")
    (run / "data/corpus.json").write_text("[]")
    done = minitx("runs", "--json")
    found = {entry["name"]: entry for entry in json.loads(done.out)["runs"]}
    assert found["a"]["parameters"], "its copy in a checkpoint is whole"
    assert (found["b"]["step"], found["b"]["steps"], found["b"]["bits_per_byte"]) == (0, None, None)
    assert minitx("runs").code == minitx("runs", "show", "b").code == 0


def test_sizes_count_a_linked_text_once_and_free_only_the_last_of_it(tmp_path):
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    (tmp_path / "a/text").write_bytes(b"x" * 100), (tmp_path / "a/own").write_bytes(b"x" * 7)
    os.link(tmp_path / "a/text", tmp_path / "b/text")
    assert disk_bytes([tmp_path / "a"]) == (107, 7)
    assert disk_bytes([tmp_path / "a", tmp_path / "b"]) == (107, 107)


def test_nothing_of_it_needs_torch(runs, minitx_process, inside):
    """But for the paired test."""
    for name in ("a", "b", "c"):
        runs(name)
    (inside / "sitecustomize.py").write_text("import sys; sys.modules['torch'] = None")
    env = {**os.environ, "PYTHONPATH": f"{inside}:{os.pathsep.join(sys.path)}"}
    commands = [[], ["--json"], ["show", "a"], ["compare", "a", "b", "--no-eval"],
                ["rename", "a", "d"], ["prune", "--yes"], ["rm", "b", "--yes"],
                ["--help"]]  # fmt: skip
    for command in commands:
        done = minitx_process("runs", *command, env=env, cwd=inside)
        assert done.code == 0, (command, done.err)
    assert minitx_process("generate", "d", env=env, cwd=inside).code == 1
    assert sorted(os.listdir("runs")) == ["c", "d"]


# ---- removing, renaming, pruning -----------------------------------------------------------------


def contents(path):
    return {file.relative_to(path): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def test_rm_asks_and_takes_no_for_an_answer(runs, minitx, monkeypatch):
    before = contents(runs("a"))
    refused = minitx("runs", "rm", "a")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "--yes" in refused.err
    asked = []
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("typer.confirm", lambda text: asked.append(text))
    done = minitx("runs", "rm", "a")
    assert len(asked) == 1
    assert "Nothing was removed." in done.out
    assert contents(all_runs()[0]) == before
    monkeypatch.setattr("typer.confirm", lambda text: True)
    assert minitx("runs", "rm", "a").code == 0
    assert os.listdir("runs") == []


def test_one_bad_name_or_a_running_run_and_nothing_is_removed(runs, minitx, inside):
    runs("a"), runs("b")
    assert minitx("runs", "rm", "a", "nope", "--yes").code == 2
    assert minitx("runs", "rm", "a", "b/checkpoints", "--yes").code == 2
    assert minitx("runs", "rm", "--yes").code == 2
    with trained_elsewhere(inside / "runs/b"):
        assert minitx("runs", "rm", "a", "b", "--yes").code == 5
        assert minitx("runs", "rename", "b", "c").code == 5
        pruned = minitx("runs", "prune", "b", "--yes")
        assert "is being trained: left alone" in pruned.err
    assert sorted(os.listdir("runs")) == ["a", "b"]
    assert len(RunDirectory(inside / "runs/b").steps()) == 2
    (inside / "runs/linked").symlink_to("a")
    assert minitx("runs", "rm", "linked", "--yes").code == 2
    assert sorted(os.listdir("runs")) == ["a", "b", "linked"]


@pytest.mark.parametrize("n_removed", [0, 1, 3, 7])
def test_a_kill_leaves_nothing_that_looks_like_a_run(runs, inside, monkeypatch, n_removed):
    run, kept = runs("a"), runs("b")
    real = shutil.rmtree

    def killed(path, **options):
        for file in sorted(file for file in path.rglob("*") if file.is_file())[:n_removed]:
            file.unlink()
        raise SystemExit

    monkeypatch.setattr(run_changes.shutil, "rmtree", killed)
    with pytest.raises(SystemExit):
        remove_run(RunDirectory(run))
    monkeypatch.setattr(run_changes.shutil, "rmtree", real)
    assert not run.exists()
    (left,) = [entry for entry in (inside / "runs").iterdir() if entry != kept]
    assert not is_run(left)
    assert all_runs() == [kept.relative_to(inside)]
    assert newest_run() == kept.relative_to(inside)
    with pytest.raises(BadInputError):
        RunDirectory.open(left)
    remove_run(RunDirectory(kept))
    assert list((inside / "runs").iterdir()) == []


def test_rename_moves_all_and_overwrites_nothing(runs, minitx, inside):
    before = contents(runs("a"))
    runs("b")
    for name in ("b", "x/y", "..", "", ".x", "-x", "x\ny"):
        done = minitx("runs", "rename", "a", "--", name)
        assert (done.code, done.err.count("\n")) == (2, 1), name
    assert minitx("runs", "rename", "a", "best one").code == 0
    assert contents(inside / "runs/best one") == before
    assert sorted(os.listdir("runs")) == ["b", "best one"]
    assert minitx("runs", "show", "best one").code == 0


def test_prune_keeps_best_and_last(runs, minitx, inside):
    run = RunDirectory(runs("a"))
    extra, (best, last) = run.checkpoint(100), run.steps()
    newest = run.checkpoint(last)
    (newest / "manifest.json").unlink()
    (newest / "manifest.json").write_bytes(manifest_bytes(newest, last, best))
    assert run.best_step() == best
    shutil.copytree(run.checkpoint(best), extra)  # Its manifest names another step.
    (run.checkpoint_root / ".step-000110.part").mkdir()
    (run.checkpoint_root / ".step-000110.part/model").write_bytes(b"x" * 1000)
    kept = {best, last}
    assert extra in prunable(run)
    before = disk_bytes([run.path])[0]
    asked = minitx("runs", "prune", "a", "--yes")
    assert set(run.steps()) == kept
    assert not list(run.checkpoint_root.glob(".*"))
    assert before - disk_bytes([run.path])[0] > 1000
    assert "Freed" in asked.out
    assert "Nothing to free" in minitx("runs", "prune").out


def test_prune_spares_the_last_that_is_whole(runs, minitx):
    run = RunDirectory(runs("a"))
    *_, before, last = run.steps()
    (run.checkpoint(last) / "optimizer.safetensors").write_bytes(b"")
    minitx("runs", "prune", "--yes")
    assert {before, last} <= set(run.steps())
    assert run.usable_checkpoint("last") == run.checkpoint(before)
    shutil.rmtree(run.checkpoint(before))
    done = minitx("runs", "prune", "--yes")
    assert "left alone" in done.err
    assert run.steps() == [last]


# ---- one run, and two ----------------------------------------------------------------------------


def test_facts_are_those_of_the_run(runs, minitx):
    run = runs("a")
    found = json.loads(minitx("runs", "show", "a", "--json").out)
    assert found == json.loads(json.dumps({**facts(RunDirectory(run)), "age": found["age"],
                                           "path": found["path"], "name": "a"}))  # fmt: skip
    assert [saved["name"] for saved in found["checkpoints"]] == sorted(
        path.name for path in (run / "checkpoints").iterdir()
    )
    assert found["config"]["model"]["d_model"] == 16
    assert found["evaluations"][-1]["step"] == 120
    assert "120" in minitx("runs", "show", "a").out


def test_compare_names_what_differs_and_tests_it(runs, minitx, tiny_gpt2_run, inside):
    runs("a")
    shutil.copytree(tiny_gpt2_run, inside / "runs/b")
    first, second = RunDirectory(inside / "runs/a"), RunDirectory(inside / "runs/b")
    differing = differences(first, second)
    assert differing["tokenizer.kind"] == ("char", "bpe")
    assert differing["train.steps"] == (120, 40)
    assert "train.seed" not in differing
    assert "data.working_directory" not in differing
    found = json.loads(minitx("runs", "compare", "a", "b", "--json").out)
    assert found["runs"] == ["a", "b"]
    assert found["differences"] == json.loads(json.dumps(differing))
    (test,) = found["comparison"]["tests"]
    evaluated = json.loads(minitx("eval", "a", "b", "--json").out)["reports"][0]["tests"]
    assert [test] == evaluated
    shown = minitx("runs", "compare", "a", "b").out
    assert "tokenizer.kind" in shown
    assert "significance" in shown, "the holdout is short, and the report says so"
    (inside / "runs/b/data/holdout.txt").write_text("another text")
    done = minitx("runs", "compare", "a", "b")
    assert done.code == 0
    assert "No test on a common holdout" in done.out
    assert minitx("runs", "compare", "a", "a").code == 2


@pytest.mark.parametrize("columns", ["80", "200"])
def test_tables_fit_the_terminal(runs, minitx, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    runs("a-run-with-a-long-name-that-somebody-has-given-it-for-a-reason-of-his"), runs("b")
    for command in ([], ["show", "b"], ["prune", "--yes"]):
        done = minitx("runs", *command)
        assert done.code == 0
        assert max(map(len, done.out.splitlines())) <= int(columns)
    table = minitx("runs").out.splitlines()
    assert "-reason-of-his" in table[3] or columns == "80"
    # What is cut is a name or a corpus, and no figure.
    assert re.search(r" finished +120 +0\.\d{4} +[\d.]+ k +\d+ kB +\d+[smhd] ", table[3])


def test_no_figure_is_cut_where_a_run_has_many_steps(runs, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    long = replace(overview([runs("a-run-with-a-long-name")])[0], steps=2_000_000_000)
    lines = printed(*runs_table([long], 0), width=80).splitlines()
    assert "bits/byte" in lines[1]
    assert re.search(r" finished +120/2,000,000,000 +0\.\d{4} +(\d+ kB +)?\d+[smhd] ", lines[3])
    assert max(map(len, lines)) <= 80


def test_a_run_says_what_it_began_with(runs):
    known = facts(RunDirectory(runs("a")))
    assert "begun with" not in shown(known)
    known["config"]["train"]["start"] = "runs/b/checkpoints/step-000120"
    assert "runs/b/checkpoints/step-000120" in shown({**known, "state": "running"})
    assert " ago" not in shown({**known, "state": "running"})


def shown(known):
    return printed(*run_facts(known), width=200)


def printed(*parts, width):
    console = Console(file=io.StringIO(), width=width)
    console.print(*parts, sep="\n")
    return console.file.getvalue()


def test_a_bare_name_names_the_tokenizer_of_a_run(runs, minitx, verses):
    runs("a")
    sizes = ["--layers", 1, "--heads", 1, "--d-model", 16, "--context", 16, "--steps", 2]
    done = minitx("train", verses, "--tokenizer", "a", *sizes, "--out", "runs/b")
    assert done.code == 0, done.err
    assert (RunDirectory(all_runs()[0]).data / "tokenizer.json").read_bytes() == (
        RunDirectory(all_runs()[1]).data / "tokenizer.json"
    ).read_bytes()
