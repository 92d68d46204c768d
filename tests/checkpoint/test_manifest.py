import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minitx.checkpoint.manifest import MANIFEST, manifest_bytes, read_manifest, verify
from minitx.errors import DamagedFileError


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
