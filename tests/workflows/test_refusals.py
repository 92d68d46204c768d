"""A refusal to resume changes no file of the run."""

import hashlib
import shutil
import sys
from dataclasses import replace

import pytest
from small_runs import TINY_MODEL, TINY_TRAIN

from minitx.checkpoint.manifest import MANIFEST, manifest_bytes
from minitx.checkpoint.rundir import RunDirectory
from minitx.errors import BadInputError, MinitxError
from minitx.training.logging import LOGGERS
from minitx.workflows.resume import ResumeRequest, resume
from minitx.workflows.train import TrainRequest, train

TEXT = "the cat sat on the mat\n" * 40


def contents(run):
    """Digest of each file, the lock's aside: it names who holds the run."""
    return {
        str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(run.rglob("*"))
        if path.is_file() and path.name != "lock"
    }


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of 4 steps, and the text that it was trained on."""
    directory = tmp_path_factory.mktemp("refusals")
    text = directory / "a.txt"
    text.write_text(TEXT)
    request = TrainRequest(
        data={"corpus": (str(text),)},
        tokenizer={"kind": "char"},
        model={**TINY_MODEL, "context_length": 16},
        train={**TINY_TRAIN, "steps": 4, "evaluate_every": 2, "checkpoint_every": 2},
        out=directory / "run",
    )
    return train(request, []).run, text


def damage(name):
    def spoil(run):
        path = run / name
        path.write_bytes(path.read_bytes()[:-7] + b"garbage")

    return spoil


def last(run):
    return sorted((run / "checkpoints").iterdir())[-1]


def each(*names):
    """Damage these files of all checkpoints."""

    def spoil(run):
        for checkpoint in (run / "checkpoints").iterdir():
            for name in names:
                damage(name)(checkpoint)

    return spoil


def forged(name, content):
    """Another content of a file of all checkpoints, with its digest in the manifest."""

    def spoil(run):
        for checkpoint in (run / "checkpoints").iterdir():
            (checkpoint / name).write_text(content)
            step = int(checkpoint.name.removeprefix("step-"))
            (checkpoint / MANIFEST).write_bytes(manifest_bytes(checkpoint, step, step))

    return spoil


def all_of(*spoils):
    def spoil(run):
        for each_spoil in spoils:
            each_spoil(run)

    return spoil


def as_directory(name):
    def spoil(run):
        (run / name).unlink()
        (run / name).mkdir()

    return spoil


def without(name):
    return lambda run: (run / name).unlink()


def later_checkpoint_damaged(run):
    """A checkpoint after the last whole one, which a resume would remove."""
    shutil.copytree(last(run), run / "checkpoints" / "step-000009")
    damage("model.safetensors")(run / "checkpoints" / "step-000009")


FASTER = {"steps": 6, "learning_rate": 0.5}


REFUSALS = {
    "another key": ({"train": {"steps": 6, "batch_size": 3}}, None, None),
    "out of range": ({"train": {"steps": 6, "learning_rate": -1.0}}, None, None),
    "nothing left": ({}, None, None),
    "fewer steps": ({"train": {"steps": 3}}, None, None),
    "no such device": ({"train": {"steps": 6, "device": "tpu"}}, None, None),
    "no such engine": ({"train": {"steps": 6, "engine": "warp"}}, None, None),
    "no such logger": ({"train": {"steps": 6}, "loggers": ("nowhere",)}, None, None),
    "text changed": ({"train": {"steps": 6}}, TEXT + "and the dog\n", None),
    "text too short": (
        {"train": {"steps": 6}, "allow_changed_corpus": True}, "gone wrong\n", None
    ),
    "text not UTF-8": (
        {"train": {"steps": 6}, "allow_changed_corpus": True}, b"\xff\xfe\x00",
        damage("data/train.txt"),
    ),
    "text emptied": ({"train": {"steps": 6}, "allow_changed_corpus": True}, "", None),
    "older checkpoint": ({"run": "checkpoints/step-000002", "train": {"steps": 6}}, None, None),
    "no such run": ({"run": "nowhere", "train": {"steps": 6}}, None, None),
    "too many threads": ({"train": {"steps": 6, "threads": 10**6}}, None, None),
    "no tensorboard": ({"train": FASTER, "loggers": ("tensorboard",)}, None, None),
    "no tensorboard, damage": (
        {"train": FASTER, "loggers": ("tensorboard",)}, None, later_checkpoint_damaged
    ),
    "no tensorboard, another text": (
        {"train": FASTER, "loggers": ("tensorboard",), "allow_changed_corpus": True},
        TEXT + "and the dog\n", None,
    ),
    "a logger that refuses": ({"train": FASTER, "loggers": ("refusing",)}, None, None),
    "metrics not writable": ({"train": FASTER}, None, as_directory("metrics.jsonl")),
    "config is a directory": (
        {"train": FASTER}, None, all_of(as_directory("run.toml"), later_checkpoint_damaged)
    ),
    "no whole checkpoint": ({"train": FASTER}, None, each("model.safetensors")),
    "no state": ({"train": FASTER}, None, each("training_state.json")),
    "no config": ({"train": FASTER}, None, all_of(damage("run.toml"), each("run_copy.toml"))),
    "state of another kind": ({"train": FASTER}, None, forged("training_state.json", "{}")),
    "optimizer of another kind": ({"train": FASTER}, None, forged("optimizer.safetensors", "x")),
    "diagnosis of another kind": (
        {"train": {"learning_rate": 0.5}}, None,
        all_of(forged("diagnosis.json", '{"watch": {"losses": 5}}'), without("metrics.jsonl")),
    ),
    "good states of another kind": (
        {"train": {**FASTER, "on_spike": "rollback"}}, None,
        forged("diagnosis.json", '{"good_states": [{"step": 2}]}'),
    ),
    "no data": (
        {"train": FASTER}, b"\xff\xfe\x00",
        all_of(damage("data/train.ids"), damage("data/train.txt")),
    ),
}  # fmt: skip


@LOGGERS.register("refusing")
def refusing(run, first_step):
    raise BadInputError("this logger refuses", "Leave it out")


@pytest.mark.parametrize("name", REFUSALS)
def test_a_refusal_leaves_every_file_as_it_was(trained, tmp_path, name, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    original, text = trained
    options, changed_text, spoil = REFUSALS[name]
    run = tmp_path / "run"
    shutil.copytree(original, run, symlinks=True)
    before_text = text.read_bytes()
    if spoil is not None:
        spoil(run)
    before = contents(run)
    asked = {**options, "run": run / options["run"] if "run" in options else run}
    try:
        if changed_text is not None:
            is_text = isinstance(changed_text, str)
            text.write_bytes(changed_text.encode() if is_text else changed_text)
        with pytest.raises(MinitxError):
            resume(ResumeRequest(**asked), [])
    finally:
        text.write_bytes(before_text)
    assert contents(run) == before


def test_a_run_whose_config_cannot_be_written_keeps_its_text_and_checkpoints(
    trained, tmp_path, monkeypatch
):
    def full(*_):
        raise BadInputError("run.toml can't be written (No space left on device)", "Make room")

    original, text = trained
    run = tmp_path / "run"
    shutil.copytree(original, run, symlinks=True)
    later_checkpoint_damaged(run)
    before = contents(run / "data"), contents(run / "checkpoints")
    monkeypatch.setattr(RunDirectory, "write_config", full)
    try:
        text.write_text(TEXT + "the mat sat on the cat\n" * 40)
        with pytest.raises(BadInputError, match="No space left"):
            resume(ResumeRequest(run, train=FASTER, allow_changed_corpus=True), [])
    finally:
        text.write_text(TEXT)
    assert (contents(run / "data"), contents(run / "checkpoints")) == before


def test_a_changed_text_is_taken_where_it_is_allowed_and_can_be_used(trained, tmp_path):
    original, text = trained
    run = tmp_path / "run"
    shutil.copytree(original, run, symlinks=True)
    longer = TEXT + "the mat sat on the cat\n" * 40
    try:
        text.write_text(longer)
        request = ResumeRequest(run, train={"steps": 6}, allow_changed_corpus=True)
        assert resume(request, []).end.step == 6
        parts = [(run / "data" / f"{part}.txt").read_text() for part in ("train", "holdout")]
        assert "".join(parts) == longer
        assert resume(ResumeRequest(run, train={"steps": 8}), []).end.step == 8
    finally:
        text.write_text(TEXT)
    assert not list(run.glob(".data*"))


@pytest.mark.parametrize("killed_after", ["first rename", "second rename"])
def test_killed_while_the_text_is_exchanged_a_run_has_one(trained, tmp_path, killed_after):
    original, _ = trained
    run = RunDirectory(tmp_path / "run")
    shutil.copytree(original, run.path, symlinks=True)
    before = contents(run.data)
    shutil.copytree(run.data, run.new_data)
    run.data.rename(run.path / ".data.old")
    if killed_after == "second rename":
        run.new_data.rename(run.data)
    run.clear_leftovers()
    assert contents(run.data) == before
    assert not list(run.path.glob(".data*"))


def test_a_text_of_characters_that_the_tokenizer_never_saw_is_no_late_refusal(trained, tmp_path):
    """Nothing in it can be a prompt for the sample that an evaluation shows."""
    original, text = trained
    run = tmp_path / "run"
    shutil.copytree(original, run, symlinks=True)
    try:
        text.write_text("ÄÖÜ☃\n" * 200)
        request = ResumeRequest(run, train={"steps": 6}, allow_changed_corpus=True)
        assert resume(request, []).end.step == 6
    finally:
        text.write_text(TEXT)


def test_a_text_that_cannot_be_used_is_told_of(trained, tmp_path, caplog):
    original, text = trained
    run = tmp_path / "run"
    shutil.copytree(original, run, symlinks=True)
    try:
        text.write_text("")
        with pytest.raises(BadInputError, match="no changed text to go on with") as caught:
            resume(ResumeRequest(run, train={"steps": 6}, allow_changed_corpus=True), [])
        assert "leave out --allow-changed-corpus" in caught.value.fix
        assert resume(ResumeRequest(run, train={"steps": 6}), []).end.step == 6
        assert "own copy of its text" in caplog.text
    finally:
        text.write_text(TEXT)


def test_early_stopping_needs_a_holdout(trained, tmp_path):
    _, text = trained
    train_keys = {**TINY_TRAIN, "steps": 4, "early_stopping": 2}
    request = TrainRequest(
        data={"corpus": (str(text),), "holdout_fraction": 0.0},
        model={**TINY_MODEL, "context_length": 16},
        train=train_keys,
        out=tmp_path / "run",
    )
    with pytest.raises(BadInputError, match="no holdout to score") as caught:
        train(request, [])
    assert not list(tmp_path.iterdir())
    assert "--early-stopping 0" in caught.value.fix
    last_line = tmp_path / "one token.txt"
    last_line.write_text(text.read_text().rstrip("\n") + "\nx")
    one_token = replace(request, data={"corpus": (str(last_line),), "holdout_fraction": 0.001})
    with pytest.raises(BadInputError, match="no holdout to score"):
        train(one_token, [])
    assert list(tmp_path.iterdir()) == [last_line]
    run = train(replace(request, train={**train_keys, "early_stopping": 0}), []).run
    before = contents(run)
    with pytest.raises(BadInputError, match="no holdout to score"):
        resume(ResumeRequest(run, train={"steps": 6, "early_stopping": 2}), [])
    assert contents(run) == before
    # One of an earlier version, which promised it, goes on as it would have.
    config = RunDirectory(run).read_config()
    RunDirectory(run).write_config(replace(config, train=replace(config.train, early_stopping=2)))
    assert resume(ResumeRequest(run, train={"steps": 6}), []).end.step == 6
