"""Readers of a run that is being trained, or that broke: `last` and `best` are looked up again."""

import os
import shutil

import pytest
from safetensors.torch import load_file, save_file

import minitx as library
from minitx.checkpoint import manifest, rundir
from minitx.config import ReportSettings
from minitx.errors import BadInputError
from minitx.workflows.report import gather

READERS = [
    ["generate", "--prompt", "1 green", "--max-new-tokens", 3],
    ["eval", "--quick"],
    ["attn", "--prompt", "1 green", "--json"],
    ["diagnose"],
    ["profile", "--steps", 1],
    ["tokenize", "--text", "1 green", "--tokenizer"],
]


@pytest.fixture
def run(tiny_run, inside):
    shutil.copytree(tiny_run, inside / "runs" / "verses-001")
    return inside / "runs" / "verses-001"


def prune_once(monkeypatch, module, name):
    """Whatever checkpoint `name` is first called with is pruned just before."""
    real, pruned = getattr(module, name), []

    def after_pruning(directory, *rest, **named):
        if not pruned and directory.name.startswith("step-"):
            pruned.append(directory)
            doomed = directory.with_name(f".{directory.name}.old")
            directory.rename(doomed)
            shutil.rmtree(doomed)
        return real(directory, *rest, **named)

    monkeypatch.setattr(module, name, after_pruning)
    return pruned


@pytest.mark.parametrize("when", ["before it is checked", "before it is loaded"])
@pytest.mark.parametrize("command", READERS, ids=[command[0] for command in READERS])
def test_a_checkpoint_that_is_pruned_meanwhile_is_none(minitx, run, monkeypatch, command, when):
    if when == "before it is checked":
        pruned = prune_once(monkeypatch, rundir, "verify")
    else:
        from minitx.workflows import diagnose, load, profile, tokenize

        pruned = []
        for module in (diagnose, load, profile):
            pruned = prune_once(monkeypatch, module, "load_model") or pruned
        pruned = prune_once(monkeypatch, tokenize, "load_tokenizer") or pruned
    done = minitx(*command, run)
    assert done.code == 0, done.err
    assert "error" not in done.err
    assert "warning" not in done.err
    assert len(os.listdir(run / "checkpoints")) == 1


def test_a_report_measures_the_checkpoint_that_is_left(run, monkeypatch):
    from minitx.workflows import evaluate

    prune_once(monkeypatch, evaluate, "open_checkpoint")
    (story,) = gather([run], ReportSettings(attn=False)).runs
    assert story.holdout is not None
    assert story.checkpoint.is_dir()


def test_a_checkpoint_that_is_pruned_once_loaded_is_served(run):
    from minitx.workflows.serve import describe

    loaded = library.load(run)
    shutil.rmtree(loaded.directory)
    assert describe(loaded).name == "verses-001"


def test_a_run_that_goes_away_is_told_once(minitx, run, monkeypatch):
    from minitx.workflows import load

    def gone(directory, *_, **__):
        shutil.rmtree(run, ignore_errors=True)
        raise BadInputError("it is gone", "Look elsewhere")

    monkeypatch.setattr(load, "load_model", gone)
    done = minitx("generate", run, "--prompt", "1")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "does not exist" in done.err


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_named(minitx, run, number):
    for checkpoint in (run / "checkpoints").iterdir():
        tensors = load_file(checkpoint / "model.safetensors")
        tensors["model.norm.weight"][2] = number
        save_file(tensors, checkpoint / "model.safetensors", metadata={"format": "pt"})
        step = int(checkpoint.name.removeprefix("step-"))
        (checkpoint / "manifest.json").write_bytes(manifest.manifest_bytes(checkpoint, step, step))
    told = "holds NaN or infinity: weight norm.gain (1 of 16 numbers)"
    for command in (["generate", "--prompt", "1"], ["eval"], ["serve", "--port", 0]):
        done = minitx(*command, run)
        assert (done.code, done.err.count("\n")) == (2, 1), done.err
        assert told in done.err
    with pytest.raises(BadInputError, match="holds NaN or infinity"):
        library.load(run)
    done = minitx("diagnose", run)
    assert "NaN" in done.out
    assert minitx("attn", run, "--prompt", "1 green", "--json").code in (0, 2)


@pytest.mark.parametrize("command", READERS, ids=[command[0] for command in READERS])
def test_a_run_goes_by_its_name(minitx, run, command):
    assert minitx(*command, "verses-001").code == 0
    assert minitx(*command, "verses-001/checkpoints/step-000120").code == 0


def test_every_other_reader_takes_a_name_too(minitx, run):
    assert minitx("report", "verses-001", "--no-eval", "--no-attn").code == 0
    assert (run / "report.html").is_file()
    assert "has done 120 of 120 steps" in minitx("resume", "verses-001").err
    assert "has done" in minitx("resume", "verses-001/checkpoints/step-000120").err
    assert library.load("verses-001").step == 120
    # A path that is there means itself.
    (run.parents[1] / "verses-001").mkdir()
    assert "verses-001 is not a run" in minitx("generate", "verses-001", "--prompt", "1").err


@pytest.mark.parametrize("name", ["x" * 300, "a/" * 3000, "nul\0byte"])
def test_a_path_that_no_file_can_have_is_bad_input(inside, verses, name):
    for call in (
        lambda: library.load(name),
        lambda: library.resume(name),
        lambda: library.train(verses, steps=1, out=name),
        lambda: library.train(verses, steps=1, config=name),
        lambda: library.train(verses, steps=1, tokenizer=name),
        lambda: library.train(verses, steps=1, holdout=name),
        lambda: library.train(name, steps=1),
    ):
        with pytest.raises(BadInputError) as caught:
            call()
        assert len(str(caught.value)) < 500
        assert "\n" not in str(caught.value)
    assert os.listdir(inside) == []


def test_a_file_where_a_directory_is_meant(minitx, inside, verses):
    (inside / "file").write_text("")
    for command in (
        *READERS, ["report"], ["resume"], ["train", verses, "--steps", 1, "--out"],
        ["train", verses, "--steps", 1, "--tokenizer"], ["eval", "--holdout"],
    ):  # fmt: skip
        done = minitx(*command, "file/run")
        assert (done.code, done.err.count("\n")) == (2, 1), (command, done.err)
    assert os.listdir(inside) == ["file"]


HUGE = "1" + "0" * 30
LINES = [
    f'{{"kind":"step","step":{HUGE},"loss":1}}',
    '{"kind":"step","step":-1,"loss":1}',
    f'{{"kind":"step","step":121,"loss":{HUGE},"gradient_norm":1,"learning_rate":1}}',
    '{"kind":"step","step":121,"loss":1e999,"gradient_norm":1e999,"learning_rate":1e999}',
    '{"kind":"step","step":121,"loss":[1],"gradient_norm":{},"learning_rate":"x","timing":[]}',
    '{"kind":"step","step":121,"tokens":1e999,"timing":{"elapsed_seconds":1e999}}',
    '{"kind":"step","step":121,"tokens":-1e300,"timing":{"elapsed_seconds":-1e300}}',
    '{"kind":"step","step":999999999999999999,"loss":1,"gradient_norm":1,"learning_rate":1}',
    '{"kind":"health","step":121,"gradient_norms":[],"update_ratios":{"a":{}}}',
    '{"kind":"health","step":121,"gradient_norms":{"\\ud800":1e999},"update_ratios":{"\\u001b":0}}',
    '{"kind":"health","step":121,"gradient_norms":{},"update_ratios":{}}',
    '{"kind":"probe","step":121,"attention_entropy":3}',
    '{"kind":"evaluation","step":121,"train_loss":1e999,"holdout_loss":1e999,'
    '"holdout_bits_per_byte":1e999,"is_best":true,"sample":"\\ud800\\u001b[31m","sample_prompt":[]}',
    '{"kind":"evaluation","step":121,"train_loss":"NaN","holdout_loss":"NaN",'
    '"holdout_bits_per_byte":"NaN","is_best":3,"sample":{},"sample_prompt":null}',
    f'{{"kind":"evaluation","step":121,"holdout_loss":{HUGE}}}',
    '{"kind":"evaluation","step":121,"holdout_loss":true}',
    '{"kind":"event","step":121,"name":[],"severity":{},"message":"\\ud800","cause":1,"fix":null}',
    '{"kind":"event","step":121,"name":"rollback","severity":"warning","message":"m"}',
    '{"kind":"event","step":121,"name":"loss-spike","severity":1e999,"message":[]}',
    '{"kind":"end","step":121,"reason":[],"tokens":1e999,"timing":{"elapsed_seconds":"x"}}',
    '{"kind":"end","step":121,"reason":"finished","best_step":1e999,"final_holdout_tokens":1e999}',
    "[" * 100_000, '{"kind":[],"step":1}', "3", "null", '{"kind":"step","step":true}',
]  # fmt: skip


@pytest.mark.parametrize("first", range(5))
def test_lines_of_any_content_stop_nobody(minitx, run, first):
    with (run / "metrics.jsonl").open("a") as file:
        file.writelines(f"{line}\n" for line in LINES[first::5])
    for command in (["report", "--no-eval", "--no-attn"], ["diagnose"]):
        done = minitx(*command, run)
        assert done.code in (0, 4), done.err
        assert "Traceback" not in done.err
        assert "\x1b" not in done.out + done.err
    (run / "report.html").read_text("utf-8")
    library.load(run).evaluate(baselines=False)


def as_directory(path):
    path.unlink()
    path.mkdir()


def as_pipe(path):
    path.unlink()
    os.mkfifo(path)


def as_loop(path):
    path.unlink()
    path.symlink_to(path)


@pytest.mark.parametrize("kind", [as_directory, as_pipe, as_loop])
def test_metrics_that_are_no_file_are_left_out(minitx, run, kind):
    kind(run / "metrics.jsonl")
    for command in (["report", "--no-eval", "--no-attn"], ["diagnose"], ["eval"]):
        done = minitx(*command, run)
        assert done.code == 0, done.err
        told = [line for line in done.err.splitlines() if "metrics.jsonl" in line]
        assert len(told) == 1
        assert "can't be read" in told[0]
    before = sorted(path.name for path in run.rglob("*"))
    done = minitx("resume", run, "--steps", 121)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "metrics.jsonl is not a plain file that can be read" in done.err
    assert sorted(path.name for path in run.rglob("*")) == before


@pytest.mark.parametrize("kind", [as_directory, as_pipe, as_loop])
def test_a_lock_that_is_no_file_is_told(minitx, run, kind):
    kind(run / "lock")
    done = minitx("resume", run, "--steps", 121)
    assert (done.code, done.err.count("\n")) == (2, 1)
