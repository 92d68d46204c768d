import hashlib
import os
import threading
from pathlib import Path

import pytest

from minitx.files import (
    TooLargeError,
    file_digest,
    read_bounded,
    read_json,
    replacing,
    sync_directory,
    write_atomically,
)


def test_replaces_and_leaves_nothing_beside(tmp_path):
    path = tmp_path / "last"
    write_atomically(path, b"one")
    write_atomically(path, b"two")
    assert path.read_bytes() == b"two"
    assert os.listdir(tmp_path) == ["last"]


def test_failed_rename_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "last"
    write_atomically(path, b"one")

    def refuse(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", refuse)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, b"two")
    assert path.read_bytes() == b"one"
    assert os.listdir(tmp_path) == ["last"]


def test_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "last"
    write_atomically(path, b"one")

    def refuse(handle):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="Input/output"):
        write_atomically(path, b"two")
    assert path.read_bytes() == b"one"


def test_content_is_on_disk_before_the_rename(tmp_path, monkeypatch):
    order = []
    real_fsync, real_replace = os.fsync, type(tmp_path).replace
    monkeypatch.setattr(os, "fsync", lambda h: (order.append("sync"), real_fsync(h)))
    monkeypatch.setattr(
        "pathlib.Path.replace", lambda s, t: (order.append("rename"), real_replace(s, t))[1]
    )
    write_atomically(tmp_path / "last", b"one")
    assert order == ["sync", "rename", "sync"]


def test_directory_that_is_gone_is_no_error(tmp_path):
    sync_directory(tmp_path / "gone")


def test_blocks_are_written_one_after_the_other(tmp_path):
    write_atomically(tmp_path / "ids", (bytes([i]) * 3 for i in range(4)))
    assert (tmp_path / "ids").read_bytes() == b"\0\0\0\1\1\1\2\2\2\3\3\3"


def test_what_fails_half_way_leaves_the_old_file(tmp_path):
    path = tmp_path / "ids"
    write_atomically(path, b"old")

    def blocks():
        yield b"new"
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_atomically(path, blocks())
    with pytest.raises(ZeroDivisionError), replacing(path) as beside:
        beside.write_bytes(b"new")
        raise ZeroDivisionError
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["ids"]


def test_a_linked_file_is_replaced_and_never_written_into(tmp_path):
    (tmp_path / "one").write_bytes(b"shared")
    os.link(tmp_path / "one", tmp_path / "two")
    (tmp_path / "three").symlink_to("one")
    write_atomically(tmp_path / "two", b"own")
    write_atomically(tmp_path / "three", b"own")
    assert (tmp_path / "one").read_bytes() == b"shared"


def test_reading_is_bounded(tmp_path):
    (tmp_path / "file").write_bytes(b"12345")
    assert read_bounded(tmp_path / "file", 5) == b"12345"
    with pytest.raises(TooLargeError, match="it has 5 bytes, more than 4"):
        read_bounded(tmp_path / "file", 4)
    with pytest.raises(TooLargeError, match="it has more than 9 bytes"):
        read_bounded(Path("/dev/zero"), 9, plain=False)


def test_a_pipe_is_read_only_where_a_person_may_name_one(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with pytest.raises(ValueError, match="it is not a plain file"):
        read_bounded(path)  # without waiting for a writer
    writer = threading.Thread(target=path.write_bytes, args=(b"from a pipe",))
    writer.start()
    assert read_bounded(path, plain=False) == b"from a pipe"
    writer.join()


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"[]", "not a JSON object"), (b"{", "Expecting"), (b"[" * 100_000, "nested too deeply")],
)
def test_what_is_no_json_object_is_told(tmp_path, content, words):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ValueError, match=words):
        read_json(tmp_path / "file")


def test_digest_of_a_file_of_several_blocks(tmp_path):
    content = bytes(range(256)) * 10_000
    (tmp_path / "file").write_bytes(content)
    assert file_digest(tmp_path / "file") == hashlib.sha256(content).hexdigest()
