"""A refusal leaves an existing output file as it was, and a failure leaves none half written."""

import os
import shutil
import sys
import threading

import pytest

OLD = b"what was there before"


@pytest.mark.parametrize(
    "flags",
    [
        ["--layer", 9], ["--head", 9], ["--token", 99], ["--average", "--head", 0, "--json"],
        ["--prompt", "green " * 99], ["--prompt", ""], ["--prompt", "é"],
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("others", [[], ["--html", "new.html"], ["--npz", "new.npz"]], ids=str)
def test_attention(minitx, tiny_run, inside, flags, others):
    for name in ("old.npz", "old.html"):
        (inside / name).write_bytes(OLD)
    if "--npz" not in others:
        others = [*others, "--npz", "old.npz"]
    if "--html" not in others:
        others = [*others, "--html", "old.html"]
    done = minitx("attn", tiny_run, *flags, *others)
    assert done.code == 2, done
    assert "Wrote" not in done.err
    assert {path.name: path.read_bytes() for path in inside.iterdir()} == {
        "old.npz": OLD, "old.html": OLD
    }  # fmt: skip


def test_attention_without_matplotlib(minitx, tiny_run, inside, monkeypatch):
    # Its parts, too, which another test may have imported.
    loaded = [name for name in sys.modules if name.startswith("matplotlib.")]
    for name in ("matplotlib", *loaded):
        monkeypatch.setitem(sys.modules, name, None)
    (inside / "old.npz").write_bytes(OLD)
    done = minitx("attn", tiny_run, "--npz", "old.npz", "--png", "a.png")
    assert done.code == 2
    assert "matplotlib" in done.err
    assert [path.read_bytes() for path in inside.iterdir()] == [OLD]


@pytest.mark.parametrize("flags", [["--decode", "x"], ["--decode", "99999"], ["--text", "é"]])
def test_tokenize(minitx, verses, inside, flags):
    (inside / "tokenizer").mkdir()
    (inside / "tokenizer/tokenizer.json").write_bytes(OLD)
    done = minitx("tokenize", verses, "--kind", "char", "--out", "tokenizer", *flags)
    assert done.code == 2, done
    assert [path.read_bytes() for path in (inside / "tokenizer").iterdir()] == [OLD]


def test_tokenize_into_a_model(minitx, verses, tiny_run, inside):
    run = inside / "run"
    shutil.copytree(tiny_run, run)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    for directory in (run, sorted((run / "checkpoints").iterdir())[-1]):
        done = minitx("tokenize", verses, "--kind", "char", "--out", directory)
        assert (done.code, done.out) == (2, ""), done
        assert "Choose another directory" in done.err
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("error", [MemoryError, RuntimeError("out of memory"), OSError(28, "full")])
def test_a_run_that_never_began_leaves_no_directory(minitx, verses, inside, monkeypatch, error):
    from minitx.workflows import train

    def fail(*_):
        raise error

    monkeypatch.setattr(train, "require_memory", fail)
    done = minitx("train", verses, "--steps", 2, "--layers", 1, "--d-model", 16, "--context", 16)
    assert done.code == 2, done
    assert "Traceback" not in done.err
    assert not (inside / "runs").exists()


@pytest.mark.parametrize("flags", [["--prompt", ""], ["--checkpoint", "worst"]])
def test_report(minitx, tiny_run, inside, flags):
    (inside / "old.html").write_bytes(OLD)
    done = minitx("report", tiny_run, "--out", "old.html", *flags)
    assert done.code == 2, done
    assert [path.read_bytes() for path in inside.iterdir()] == [OLD]


@pytest.mark.parametrize(("flag", "name"), [("--npz", "a.npz"), ("--html", "a.html")])
def test_a_page_or_maps_that_can_not_be_finished_leave_the_old(
    minitx, tiny_run, inside, flag, name, monkeypatch
):
    """The disk fills up while it is written."""
    from minitx import files

    def full(path):
        raise OSError(28, "No space left on device")

    (inside / name).write_bytes(OLD)
    monkeypatch.setattr(files, "sync_file", full)
    done = minitx("attn", tiny_run, flag, name)
    assert done.code == 2
    assert f"{name} can't be written (No space left on device)" in done.err
    assert [path.read_bytes() for path in inside.iterdir()] == [OLD]


def test_a_link_stays_a_link_and_a_pipe_is_written_into(minitx, tiny_run, inside):
    (inside / "real.npz").write_bytes(OLD)
    (inside / "link.npz").symlink_to("real.npz")
    assert minitx("attn", tiny_run, "--npz", "link.npz").code == 0
    assert (inside / "link.npz").is_symlink()
    assert (inside / "real.npz").read_bytes() != OLD
    os.mkfifo(inside / "pipe.html")
    pages = []
    reader = threading.Thread(target=lambda: pages.append((inside / "pipe.html").read_text()))
    reader.start()
    assert minitx("attn", tiny_run, "--html", "pipe.html").code == 0
    reader.join(60)
    assert pages[0].rstrip().endswith("</html>")
    assert (inside / "pipe.html").is_fifo()
