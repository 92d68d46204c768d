import logging
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from minitx.checkpoint.manifest import MANIFEST, manifest_bytes
from minitx.checkpoint.new_run import create_run
from minitx.checkpoint.rundir import (
    MODEL_FILES,
    RunDirectory,
    find_run,
    newest_run,
    resolve_checkpoint,
)
from minitx.config import DataConfig, ModelConfig, RunConfig, TokenizerConfig, TrainConfig
from minitx.errors import BadInputError, DamagedFileError, RunLockedError

CONFIG = RunConfig(
    data=DataConfig(corpus=("a.txt", 'b "quoted".txt')),
    tokenizer=TokenizerConfig(kind="char", vocab_size=66),
    model=ModelConfig(
        vocab_size=66, context_length=8, n_layers=1, n_heads=2, n_kv_heads=2, d_model=8, d_ff=16,
        head_dim=4,
    ),
    train=TrainConfig(steps=10, batch_size=2, learning_rate=0.003, budget_seconds=2.5),
)  # fmt: skip


@pytest.fixture(autouse=True)
def _inside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run():
    run = create_run(None, "corpus")
    run.write_config(CONFIG)
    return run


def add(run, step, best_step=None):
    directory = run.checkpoint(step)
    directory.mkdir()
    for name in MODEL_FILES:
        (directory / name).write_text(f"{name} of {step}")
    (directory / MANIFEST).write_bytes(manifest_bytes(directory, step, best_step))
    return directory


def damage(directory):
    (directory / "model.safetensors").write_text("x")


def test_config_comes_back_equal(run):
    assert run.read_config() == CONFIG


def test_names_count_up():
    names = [create_run(None, "My Corpus!").path.name for _ in range(3)]
    assert names == ["My-Corpus-001", "My-Corpus-002", "My-Corpus-003"]


def test_name_without_a_usable_letter():
    assert create_run(None, "..").path.name == "corpus-001"


def test_given_directory_must_be_empty(tmp_path):
    run = create_run(tmp_path / "new" / "run", "x")
    assert run.checkpoint_root.is_dir()
    add(run, 3)
    with pytest.raises(BadInputError, match="is not empty"):
        create_run(tmp_path / "new" / "run", "x")


def test_directory_of_a_run_that_never_began_is_used_again(tmp_path):
    path = create_run(tmp_path / "run", "x").path
    (path / "data" / "train.txt").write_text("half")
    (path / "lock").write_text("4000000\n")
    assert list((create_run(path, "x").path / "data").iterdir()) == []
    (path / "notes.txt").write_text("mine")
    with pytest.raises(BadInputError, match="is not empty"):
        create_run(path, "x")
    assert (path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    "left",
    [
        (),
        ("checkpoints/",),
        ("checkpoints/", "data/"),
        ("checkpoints/", "data/train.txt", "data/.train.ids.part", "lock"),
        ("checkpoints/.step-000000.part/model.safetensors", "data/corpus.json", ".run.toml.part"),
        ("checkpoints/", "data/corpus.json", "run.toml", "metrics.jsonl", "lock"),
        (
            "checkpoints/",
            "run.toml",
            "old_holdout.npy",
            "adapter/adapter_config.json",
            "adapter/.adapter_model.safetensors.part",
            "loggers.json",
            "film.jsonl",
        ),
        ("checkpoints/", "data/special_tokens_map.json", "data/.chat_template.jinja.part"),
    ],
)
def test_killed_at_any_instant_before_it_began(tmp_path, left):
    place(tmp_path / "run", left)
    path = create_run(tmp_path / "run", "x").path
    assert sorted(entry.name for entry in path.rglob("*")) == ["checkpoints", "data", "lock"]


@pytest.mark.parametrize(
    "left",
    [
        ("data/train.txt",),
        ("data/",),
        ("checkpoints/", "data/photos.zip"),
        ("checkpoints/mine.pt", "data/"),
        ("checkpoints/step-000010/", "data/"),
        ("checkpoints/", "notes.txt"),
        ("checkpoints/", "adapter/mine.safetensors"),
        ("checkpoints/", "wandb/run-1/mine.log"),
    ],
)
def test_what_may_be_a_persons_own_is_left_alone(tmp_path, left):
    path = tmp_path / "run"
    place(path, left)
    before = sorted(path.rglob("*"))
    with pytest.raises(BadInputError, match="is not empty"):
        create_run(path, "x")
    assert sorted(path.rglob("*")) == before


@pytest.mark.parametrize("owner", ["", "4000000\n"])
def test_killed_when_only_the_lock_was_there(tmp_path, owner):
    (tmp_path / "lock").write_text(owner)
    assert create_run(tmp_path, "x").checkpoint_root.is_dir()


def test_a_lock_that_is_no_file_is_a_persons_own(tmp_path):
    for name, make in (("a", Path.mkdir), ("b", os.mkfifo)):
        (tmp_path / name).mkdir()
        make(tmp_path / name / "lock")
        with pytest.raises(BadInputError, match="is not empty"):
            create_run(tmp_path / name, "x")


@pytest.mark.parametrize("others", [(), ("notes.txt",), ("checkpoints/", "data/a.txt", "lock.md")])
def test_a_lock_that_is_a_persons_own_is_not_written(tmp_path, others):
    path = tmp_path / "run"
    place(path, others)
    path.mkdir(exist_ok=True)
    (path / "lock").write_text("of the shed: 4711")
    with pytest.raises(BadInputError, match="is not empty"):
        create_run(path, "x")
    assert (path / "lock").read_text() == "of the shed: 4711"


def test_of_two_that_begin_one_run_at_once_one_is_refused(tmp_path):
    """And neither takes from the other what it made, whenever the second one comes."""
    begin = (
        "import sys; from pathlib import Path; from minitx.checkpoint.new_run import create_run\n"
        "from minitx.errors import MinitxError\n"
        "try:\n"
        "    run = create_run(Path(sys.argv[1]), 'x')\n"
        "    with run.lock():\n"
        "        (run.data / sys.argv[2]).write_text('mine')\n"
        "        (run.path / 'checkpoints/step-000000').mkdir()\n"
        "        sys.stdin.read()\n"
        "except MinitxError as error:\n"
        "    sys.exit(str(error))\n"
    )
    for turn in range(3):
        path = tmp_path / f"run{turn}"
        both = [
            subprocess.Popen([sys.executable, "-c", begin, path, name], text=True,
                             stdin=subprocess.PIPE, stderr=subprocess.PIPE)
            for name in "ab"
        ]  # fmt: skip
        deadline = time.monotonic() + 60
        while all(one.poll() is None for one in both) and time.monotonic() < deadline:
            time.sleep(0.01)
        errors = [one.communicate()[1] for one in both]
        assert sorted(one.returncode for one in both) == [0, 1], errors
        (refusal,) = filter(None, errors)
        assert re.fullmatch(r".*(is being trained by|is not empty).*\n", refusal)
        assert len(list((path / "data").iterdir())) == 1


def place(path, names):
    for name in names:
        target = path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.mkdir(exist_ok=True) if name.endswith("/") else target.write_text("{}")


def test_unwritable_place_is_bad_input(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInputError, match="can't be made"):
        create_run(tmp_path / "file" / "run", "x")


def test_best_and_last(run):
    add(run, 250, best_step=250)
    add(run, 500, best_step=250)
    assert resolve_checkpoint(run.path, "best").name == "step-000250"
    assert resolve_checkpoint(run.path, "last").name == "step-000500"
    assert resolve_checkpoint(None, "last").name == "step-000500"
    assert resolve_checkpoint(run.checkpoint(250)) == run.checkpoint(250)


def test_checkpoint_newer_than_the_pointer_is_the_last(run):
    add(run, 250)
    run.point("last", 250)
    add(run, 500)  # the process died before it moved the pointer
    assert run.usable_checkpoint("last").name == "step-000500"


def test_checkpoint_that_lost_its_manifest_is_named(run, caplog):
    add(run, 250)
    (add(run, 500) / MANIFEST).unlink()
    assert run.steps() == [250]
    assert run.usable_checkpoint("last").name == "step-000250"
    assert "step-000500/manifest.json can't be used: No such file" in caplog.text
    with pytest.raises(DamagedFileError, match=r"manifest.json .*Use .*step-000250 instead"):
        resolve_checkpoint(run.checkpoint(500))


def test_checkpoints_swapped_between_steps_are_found(run, caplog):
    add(run, 250)
    add(run, 500)
    run.checkpoint(250).rename(run.checkpoint(750))
    assert run.usable_checkpoint("last").name == "step-000500"
    assert "holds step 250 by its manifest, not step 750" in caplog.text


def test_file_that_a_run_needs_must_be_in_the_manifest(run):
    add(run, 250)
    with pytest.raises(DamagedFileError, match="optimizer.safetensors is not in the"):
        run.usable_checkpoint("last", required=("optimizer.safetensors",))


def test_damaged_newest_is_named_and_the_one_before_used(run, caplog):
    add(run, 250)
    damage(add(run, 500, best_step=500))
    with caplog.at_level(logging.WARNING, "minitx"):
        assert resolve_checkpoint(run.path, "best").name == "step-000250"
    assert "step-000500/model.safetensors has 1 bytes" in caplog.text
    assert "step-000250 instead" in caplog.text


def test_all_damaged(run):
    damage(add(run, 250))
    damage(add(run, 500))
    with pytest.raises(DamagedFileError, match="none of the 2 checkpoints"):
        resolve_checkpoint(run.path)


def test_named_damaged_checkpoint_is_refused_with_a_whole_one(run):
    add(run, 250)
    damaged = add(run, 500)
    damage(damaged)
    with pytest.raises(DamagedFileError, match=r"Use .*step-000250 instead"):
        resolve_checkpoint(damaged)
    damage(run.checkpoint(250))
    with pytest.raises(DamagedFileError, match="Restore it"):
        resolve_checkpoint(damaged)


def test_pruning_spares_newest_best_and_last(run):
    for step in (0, 1, 2, 3, 4, 5):
        add(run, step, best_step=2 if step > 1 else None)
    run.prune(2)
    assert run.steps() == [2, 4, 5]
    assert sorted(os.listdir(run.checkpoint_root)) == ["step-000002", "step-000004", "step-000005"]


def test_leftovers_are_cleared_and_whole_ones_kept(run):
    add(run, 1)
    for name in (".step-000002.part", ".step-000003.old", "step-000004"):
        (run.checkpoint_root / name).mkdir()
        (run.checkpoint_root / name / "config.json").write_text("")
    run.clear_leftovers()
    assert os.listdir(run.checkpoint_root) == ["step-000001", "step-000004"]
    run.drop_after(1)
    assert os.listdir(run.checkpoint_root) == ["step-000001"]


@pytest.mark.parametrize("text", ["", "step-x", "step-000777", "step-000005", "\xff" * 200])
def test_pointers_are_for_people(run, text):
    add(run, 3, best_step=3)
    add(run, 5, best_step=3)
    (run.path / "best").write_text(text)
    assert resolve_checkpoint(run.path, "best").name == "step-000003"


def test_first_checkpoint_stays_while_it_is_the_only_one(run):
    add(run, 0)
    run.prune(1)
    assert run.steps() == [0]
    add(run, 10)
    run.prune(3)
    assert run.steps() == [10]


def test_run_that_lost_run_toml_is_still_one(run):
    directory = add(run, 3)
    run.config_file.unlink()
    assert resolve_checkpoint(run.path) == directory
    assert newest_run() == run.path
    with pytest.raises(DamagedFileError, match="run.toml can't be read"):
        run.read_config()


def test_directory_in_use_is_refused_with_its_owner(run, tmp_path):
    with run.lock(), pytest.raises(RunLockedError, match=f"process {os.getpid()}"):
        create_run(run.path, "corpus")


def test_newest_run_is_the_last_trained(run):
    other = create_run(None, "corpus")
    other.write_config(CONFIG)
    os.utime(other.config_file, (1, 1))
    assert newest_run() == run.path
    run.metrics_file.write_text("")
    os.utime(run.metrics_file, (5, 5))
    os.utime(run.config_file, (1, 1))
    os.utime(other.config_file, (9, 9))
    assert newest_run().name == other.path.name


def test_run_is_found_from_its_checkpoint(run):
    directory = add(run, 1)
    assert find_run(directory).path == run.path.absolute()
    assert RunDirectory.open(directory).steps() == [1]
    assert find_run(run.path.absolute().parent.parent) is None


@pytest.mark.parametrize("which", ["resolve", "open"])
def test_what_is_no_run_is_told(tmp_path, which):
    use = resolve_checkpoint if which == "resolve" else RunDirectory.open
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInputError, match="no run yet"):
        use(None)
    with pytest.raises(BadInputError, match="does not exist"):
        use(tmp_path / "nowhere")
    with pytest.raises(BadInputError, match="is a file"):
        use(tmp_path / "file")
    with pytest.raises(BadInputError, match="is not a run"):
        use(tmp_path / "empty")


def test_directory_of_runs_names_one(run):
    with pytest.raises(BadInputError, match="for example runs/corpus-001"):
        resolve_checkpoint(run.path.parent)


def test_run_without_checkpoint(run):
    with pytest.raises(BadInputError, match="no checkpoint yet"):
        resolve_checkpoint(run.path)


@pytest.mark.parametrize(
    "text", ["", "[model]\n", "model = 3\ndata = 1\ntokenizer = 1\ntrain = 1\n", "\x00", "[["]
)
def test_broken_run_toml(run, text):
    run.config_file.write_text(text)
    with pytest.raises(DamagedFileError) as caught:
        run.read_config()
    assert "run.toml" in str(caught.value)
