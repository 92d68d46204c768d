"""`--engine torch-compile`, as a user asks for it; the compiler itself is left out."""

import torch
from small_runs import TINY_MODEL, TINY_TRAIN

from minitx.workflows.resume import ResumeRequest, resume
from minitx.workflows.train import TrainRequest, train

SMALL = ["--layers", 1, "--heads", 2, "--d-model", 16, "--context", 16, "--batch-size", 2,
         "--steps", 6, "--dtype", "float32", "--threads", 1, "--evaluate-every", 3]  # fmt: skip


def request(verses, out, **train_keys):
    return TrainRequest(
        data={"corpus": (str(verses),)},
        model=TINY_MODEL,
        train={**TINY_TRAIN, "log_every": 1, **train_keys},
        out=out,
    )


def test_another_device_is_not_compiled_for(tmp_path, verses, monkeypatch):
    asked = []
    monkeypatch.setattr(torch, "compile", lambda function: asked.append(function) or function)
    monkeypatch.setattr("minitx.fast.training_loss.can_compile", lambda device: True)
    run = train(request(verses, tmp_path / "run", engine="torch-compile"), []).run
    assert asked
    asked.clear()
    resume(ResumeRequest(run, train={"steps": 40}), [])
    assert asked
    asked.clear()
    resume(ResumeRequest(run, train={"steps": 50, "device": "cpu"}), [])
    assert not asked


def test_compiled_model_trains(minitx, verses, inside, monkeypatch):
    """What torch.compile returns is what trains: block, norm and loss; the compiler is torch's."""
    seen = []
    monkeypatch.setattr(torch, "compile", lambda f: seen.append(f) or f)
    monkeypatch.setattr("minitx.fast.training_loss.can_compile", lambda device: True)
    assert minitx("train", verses, *SMALL, "--engine", "torch-compile").code == 0
    assert len(seen) == 3


def test_to_compile_without_a_compiler_is_refused(minitx, verses, inside, monkeypatch):
    monkeypatch.setattr("minitx.fast.torch_compile.shutil.which", lambda name: None)
    done = minitx("train", verses, *SMALL, "--engine", "torch-compile")
    assert done.code == 2
    assert "torch.compile can't be used on cpu" in done.err
    assert "--engine auto" in done.err
    assert not list(inside.glob("runs/*"))
