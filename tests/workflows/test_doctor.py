import getpass
import json
import os
import platform
import re
import shutil
import socket
import sys

import pytest
import torch

from minitx.workflows import doctor
from minitx.workflows.doctor import BRINGS, bug_report, examine

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from documented import ROOT


def test_it_says_what_torch_and_the_run_say(tiny_run):
    found = examine()
    made_with = json.loads(next(tiny_run.glob("checkpoints/*/made_with.json")).read_text())
    assert found["packages"]["torch"] == made_with["torch"]
    assert found["device"] == made_with["device"]
    assert found["engine"] == made_with["engine"]
    assert found["kernel_family"] == made_with["kernel_family"]
    assert found["kernel_version"] == made_with["kernel_version"]
    assert found["threads"] == torch.get_num_threads()
    assert found["disk_free"] > 0
    json.dumps(found)


def test_every_extra_for_users_says_what_it_brings_and_how_to_install_it(monkeypatch):
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = extras["optional-dependencies"]
    lines = [
        f'{line}{" and" if ";" in line else ";"} extra == "{extra}"'
        for extra, needed in extras.items() for line in needed
    ]  # fmt: skip
    monkeypatch.setattr(doctor.metadata, "requires", lambda name: lines)
    monkeypatch.setattr(doctor, "_version", lambda name: None if "tensorb" in name else "1.0")
    found = {entry["extra"]: entry for entry in doctor._extras()}
    assert set(found) == set(extras) - {"docs", "test"}
    assert set(BRINGS) <= set(found)
    assert [name for name, entry in found.items() if not entry["installed"]] == ["tensorboard"]
    assert found["tensorboard"]["install"] == 'pip install "minitx[tensorboard]"'
    assert set(found["serve"]["packages"]) == {"prometheus-client", "starlette", "uvicorn"}


def test_what_is_missing_is_shown_with_its_command(minitx, monkeypatch):
    real = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: None if name == "uvicorn" else real(name))
    done = minitx("doctor")
    assert done.code == 0
    assert 'minitx serve and minitx explore   pip install "minitx[serve]"' in done.out


def test_problems_are_named(monkeypatch):
    monkeypatch.setenv("MINITX_KERNELS", "none")
    from minitx.fast.library import library

    library.cache_clear()
    try:
        monkeypatch.setattr(doctor, "free_memory", lambda: 10**8)
        monkeypatch.setattr(doctor, "_cores", lambda: 64)
        found = examine()
    finally:
        library.cache_clear()
    told = "\n".join(found["problems"])
    assert "no compiled kernels" in told
    assert "close other programs" in told
    assert "of 64 cores" in told
    library.cache_clear()
    monkeypatch.setenv("MINITX_KERNELS", "no such kernels")
    assert "MINITX_KERNELS names no kernels" in examine()["problems"][0]
    monkeypatch.setattr(doctor, "_computing", lambda *_: __import__("no_such_torch"))
    assert "torch can't be used (ModuleNotFoundError)" in examine()["problems"][0]


@pytest.mark.parametrize("columns", ["80", "200"])
def test_it_fits_the_terminal_also_where_everything_is_missing(minitx, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setattr(doctor, "_version", lambda name: None)
    shown = minitx("doctor").out
    assert all(len(line) <= int(columns) for line in shown.splitlines())
    for entry in doctor._extras():
        assert f"{entry['brings']}  " in shown
        assert f"{entry['install']} " in shown


SECRET = "secretplace"


def test_a_bug_report_holds_no_path_text_host_or_user(minitx, inside, tiny_run, monkeypatch):
    shutil.copytree(tiny_run, inside / "runs" / SECRET)
    monkeypatch.setenv("MINITX_TRAIN_OUT", f"/{SECRET}/out")
    monkeypatch.setenv("HOME", f"/{SECRET}/home")
    done = minitx("doctor", "--report")
    assert done.code == 0
    assert "state: finished" in done.out
    assert "model.d_model: 16" in done.out
    assert "MINITX_TRAIN_OUT" in done.out
    private = [SECRET, str(inside), str(tiny_run), str(ROOT), "bottle", "verses", sys.prefix,
               socket.gethostname(), platform.node(), getpass.getuser()]  # fmt: skip
    for text in private:
        assert not re.search(rf"\b{re.escape(text)}\b", done.out), text
    assert os.sep not in done.out


def test_what_a_person_named_is_left_out_of_it(inside, tiny_run, monkeypatch):
    shutil.copytree(tiny_run, inside / "runs" / "a")
    real = doctor.facts

    def named(run):
        found = real(run)
        found["config"]["train"]["optimizer"] = SECRET
        found["config"]["model"]["code_file"] = f"{SECRET}.py"
        found["config"]["data"]["corpus"] = [SECRET]
        return found

    assert "train.optimizer: muon" in bug_report(examine())
    monkeypatch.setattr(doctor, "facts", named)
    monkeypatch.setattr(doctor, "_computing", lambda *_: __import__(SECRET))
    report = bug_report(examine())
    assert "model.d_model: 16" in report
    assert SECRET not in report
