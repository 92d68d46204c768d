import os

import pytest

from minitx.checkpoint.durable import sync_directory, write_durably


def test_replaces_and_leaves_nothing_beside(tmp_path):
    path = tmp_path / "last"
    write_durably(path, b"one")
    write_durably(path, b"two")
    assert path.read_bytes() == b"two"
    assert os.listdir(tmp_path) == ["last"]


def test_failed_rename_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "last"
    write_durably(path, b"one")

    def refuse(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", refuse)
    with pytest.raises(OSError, match="No space"):
        write_durably(path, b"two")
    assert path.read_bytes() == b"one"
    assert os.listdir(tmp_path) == ["last"]


def test_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "last"
    write_durably(path, b"one")

    def refuse(handle):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="Input/output"):
        write_durably(path, b"two")
    assert path.read_bytes() == b"one"


def test_content_is_on_disk_before_the_rename(tmp_path, monkeypatch):
    order = []
    real_fsync, real_replace = os.fsync, type(tmp_path).replace
    monkeypatch.setattr(os, "fsync", lambda h: (order.append("sync"), real_fsync(h)))
    monkeypatch.setattr(
        "pathlib.Path.replace", lambda s, t: (order.append("rename"), real_replace(s, t))[1]
    )
    write_durably(tmp_path / "last", b"one")
    assert order == ["sync", "rename", "sync"]


def test_directory_that_is_gone_is_no_error(tmp_path):
    sync_directory(tmp_path / "gone")
