import errno
import hashlib
import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minitx.checkpoint.manifest import (
    MANIFEST,
    manifest_bytes,
    read_manifest,
    verify,
    weights_digest,
)
from minitx.errors import DamagedFileError
from minitx.files import file_digest


@pytest.fixture
def checkpoint(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(bytes(range(256)) * 40)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / MANIFEST).write_bytes(manifest_bytes(tmp_path, 250))
    return tmp_path


def test_whole_checkpoint_passes_and_tells_its_step(checkpoint):
    assert verify(checkpoint) == 250
    assert verify(checkpoint, ["config.json"]) == 250


def test_manifest_does_not_list_itself(checkpoint):
    assert set(read_manifest(checkpoint)["files"]) == {"model.safetensors", "config.json"}


@settings(max_examples=60, deadline=None)
@given(at=st.integers(0, 256 * 40 - 1), bit=st.integers(0, 7))
def test_any_flipped_bit_is_found(tmp_path_factory, at, bit):
    directory = tmp_path_factory.mktemp("flipped")
    content = bytearray(bytes(range(256)) * 40)
    path = directory / "model.safetensors"
    path.write_bytes(content)
    (directory / MANIFEST).write_bytes(manifest_bytes(directory, 1))
    content[at] ^= 1 << bit
    path.write_bytes(content)
    with pytest.raises(DamagedFileError, match="digest differs"):
        verify(directory)


@pytest.mark.parametrize("size", [0, 1, 256 * 40 - 1, 256 * 40 + 1])
def test_other_length_is_found(checkpoint, size):
    path = checkpoint / "model.safetensors"
    path.write_bytes((path.read_bytes() + b"x")[:size])
    with pytest.raises(DamagedFileError, match=r"bytes instead of 10,240"):
        verify(checkpoint)


def test_missing_file_is_named(checkpoint):
    (checkpoint / "config.json").unlink()
    with pytest.raises(DamagedFileError, match=r"config\.json is missing"):
        verify(checkpoint)


def test_link_in_place_of_a_file_is_refused(checkpoint, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "config.json"
    elsewhere.write_text("{}")
    (checkpoint / "config.json").unlink()
    (checkpoint / "config.json").symlink_to(elsewhere)
    with pytest.raises(DamagedFileError, match="not a plain file"):
        verify(checkpoint)


def test_file_that_the_manifest_lacks_is_refused(checkpoint):
    with pytest.raises(DamagedFileError, match="not in the checkpoint's manifest"):
        verify(checkpoint, ["tokenizer.json"])


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"format": 1}',
        b'{"format": 2, "step": 1, "files": {}}',
        b'{"format": 1, "step": -1, "files": {}}',
        b'{"format": 1, "step": true, "files": {}}',
        b'{"format": 1, "step": 1, "files": []}',
        b'{"format": 1, "step": 1, "files": {"a": 3}}',
        b'{"format": 1, "step": 1, "files": {"a": {"bytes": "3", "sha256": ""}}}',
        b'{"format": 1, "step": 1, "files": {"a": {"bytes": 3}}}',
        b'{"format": 1, "step": 1, "files": {"../a": {"bytes": 3, "sha256": ""}}}',
        b'{"format": 1, "step": 1, "files": {"..": {"bytes": 3, "sha256": ""}}}',
        b'{"format": 1, "step": 1, "files": {"/etc/passwd": {"bytes": 3, "sha256": ""}}}',
        b" " * (2 << 20),
    ],
)
def test_malformed_manifest_is_refused_in_one_line(checkpoint, content):
    (checkpoint / MANIFEST).write_bytes(content)
    with pytest.raises(DamagedFileError) as caught:
        verify(checkpoint)
    assert "\n" not in str(caught.value)
    assert MANIFEST in str(caught.value)


def test_missing_manifest_is_refused(checkpoint):
    (checkpoint / MANIFEST).unlink()
    with pytest.raises(DamagedFileError, match="No such file"):
        verify(checkpoint)


def test_manifest_is_json_with_digests(checkpoint):
    files = json.loads((checkpoint / MANIFEST).read_text())["files"]
    assert files["config.json"]["bytes"] == 2
    assert len(files["config.json"]["sha256"]) == 64


def rewritten(checkpoint, change):
    """The manifest with a change and a digest that fits it, as whoever forges one would write."""
    content = json.loads((checkpoint / MANIFEST).read_text())
    change(content)
    del content["sha256"]
    content["sha256"] = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    (checkpoint / MANIFEST).write_text(json.dumps(content))


def test_rewritten_manifest_is_otherwise_believed(checkpoint):
    """Else the refusals below would be of the digest alone."""
    rewritten(checkpoint, lambda content: content.update(step=7, best_step=3))
    assert verify(checkpoint, step=7) == 7
    with pytest.raises(DamagedFileError, match="holds step 7 by its manifest, not step 250"):
        verify(checkpoint, step=250)


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../config.json", "/etc/passwd", "a/b", "a\\b", "..\\config.json", "a\0b"],
)
def test_name_outside_the_directory_is_refused(checkpoint, name):
    entry = {"bytes": 2, "sha256": file_digest(checkpoint / "config.json")}
    rewritten(checkpoint, lambda content: content["files"].update({name: entry}))
    with pytest.raises(DamagedFileError, match="which is not a file of this directory"):
        verify(checkpoint)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": 1}, "format 1 is not 2"),
        ({"step": -1}, "its step is not"),
        ({"step": True}, "its step is not"),
        ({"step": 10**12}, "its step is not"),
        ({"step": 1.0}, "its step is not"),
        ({"best_step": "1"}, "its best step is not"),
        ({"files": {"config.json": {"bytes": 2.0, "sha256": ""}}}, "malformed"),
        ({"files": {"config.json": {"bytes": True, "sha256": ""}}}, "malformed"),
        ({"files": {"config.json": {"bytes": 2, "sha256": None}}}, "malformed"),
        ({"files": {"config.json": {"sha256": ""}}}, "lacks 'bytes'"),
        ({"files": []}, "can't be used"),
    ],
)
def test_forged_values_are_refused(checkpoint, change, words):
    rewritten(checkpoint, lambda content: content.update(change))
    with pytest.raises(DamagedFileError, match=words):
        read_manifest(checkpoint)


@pytest.mark.parametrize("key", ["step", "best_step", "files", "format"])
def test_manifest_without_a_key_is_refused(checkpoint, key):
    rewritten(checkpoint, lambda content: content.pop(key))
    with pytest.raises(DamagedFileError, match=f"lacks '{key}'"):
        read_manifest(checkpoint)


def test_changed_step_is_found_by_the_manifests_own_digest(checkpoint):
    path = checkpoint / MANIFEST
    path.write_text(path.read_text().replace('"step": 250', '"step": 251'))
    with pytest.raises(DamagedFileError, match="its own digest differs"):
        verify(checkpoint)


def test_required_file_must_be_listed(checkpoint):
    with pytest.raises(DamagedFileError, match=r"tokenizer\.json is not in the checkpoint"):
        verify(checkpoint, [], required=["config.json", "tokenizer.json"])
    assert verify(checkpoint, [], required=["config.json"]) == 250


def test_file_that_can_not_be_read_is_named(checkpoint, monkeypatch):
    def refuse(path):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("minitx.checkpoint.manifest.file_digest", refuse)
    with pytest.raises(DamagedFileError, match=r"config\.json can't be read \(Input/output error"):
        verify(checkpoint, ["config.json"])


@pytest.mark.parametrize("kind", ["pipe", "directory", "dangling link"])
def test_what_is_no_plain_file_is_refused_unread(checkpoint, kind):
    path = checkpoint / "config.json"
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    else:
        path.symlink_to("nowhere")
    with pytest.raises(DamagedFileError, match="not a plain file"):
        verify(checkpoint)


def test_weights_digest_is_the_manifests_or_none(checkpoint):
    assert weights_digest(checkpoint) == file_digest(checkpoint / "model.safetensors")
    rewritten(checkpoint, lambda content: content["files"].pop("model.safetensors"))
    assert weights_digest(checkpoint) is None
    (checkpoint / MANIFEST).unlink()
    assert weights_digest(checkpoint) is None
