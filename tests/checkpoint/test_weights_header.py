"""A header is judged from its first bytes; nothing of the size it claims is read or allotted."""

import json
import os
import tracemalloc

import pytest
import torch
from safetensors.torch import save_file

from minitx.checkpoint.weights import LARGEST_HEADER, require_sound_header
from minitx.errors import DamagedFileError


def header(length, rest=b"{}"):
    return length.to_bytes(8, "little") + rest


def test_a_file_of_safetensors_passes(tmp_path):
    save_file({"a": torch.zeros(3)}, tmp_path / "whole")
    require_sound_header(tmp_path / "whole")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "0 bytes, fewer than its header says"),
        (b"\x00" * 7, "7 bytes, fewer"),
        (header(3), "10 bytes, fewer"),
        (header(2**64 - 1), "10 bytes, fewer"),
        (header(0), None),
        (header(2, b"[]"), "not JSON"),
        (header(2, b"\x80\x04"), "not JSON"),
        (header(0, b""), "not JSON"),
    ],
)
def test_what_can_be_no_header_is_refused(tmp_path, content, words):
    path = tmp_path / "file"
    path.write_bytes(content)
    if words is None:
        require_sound_header(path)
        return
    with pytest.raises(DamagedFileError, match=words):
        require_sound_header(path)


@pytest.mark.parametrize("over", [0, 1])
def test_header_up_to_the_limit_passes(tmp_path, over):
    path = tmp_path / "file"
    path.write_bytes(header(LARGEST_HEADER + over))
    os.truncate(path, 8 + LARGEST_HEADER + over)
    if over:
        with pytest.raises(DamagedFileError, match="is longer than any"):
            require_sound_header(path)
    else:
        require_sound_header(path)


def test_header_bomb_takes_no_memory(tmp_path):
    """A header that is all there, 4 GB of it, in a file that takes no room on the disk."""
    path = tmp_path / "bomb"
    path.write_bytes(header(4 << 30))
    os.truncate(path, 8 + (4 << 30))
    tracemalloc.start()
    try:
        with pytest.raises(DamagedFileError, match="is longer than any"):
            require_sound_header(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [10**6, 10**6], "data_offsets": [0, 4 * 10**12]},
        {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 16]},
        {"dtype": "F32", "shape": [-1], "data_offsets": [0, 16]},
        {"dtype": "F99", "shape": [4], "data_offsets": [0, 16]},
        {"dtype": "F32", "shape": [4], "data_offsets": [16, 0]},
    ],
)
def test_tensors_that_the_file_does_not_hold_are_refused(minitx, tiny_run, tmp_path, entry):
    """Through a command: the shapes are claimed, and no memory of that size is asked for."""
    import shutil

    shutil.copytree(tiny_run, tmp_path / "run")
    (weights,) = (tmp_path / "run/checkpoints").glob("step-000120/model.safetensors")
    head = json.dumps({"embedding.weight": entry}).encode()
    weights.write_bytes(header(len(head), head + b"\0" * 16))
    (weights.parent / "manifest.json").unlink()
    done = minitx("generate", weights.parent, "--prompt", "1")
    assert done.code == 3
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1


def test_what_is_no_plain_file_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe")  # opening it plainly would wait for a writer
    with pytest.raises(DamagedFileError, match="not a plain file"):
        require_sound_header(tmp_path / "pipe")
    with pytest.raises(DamagedFileError, match="can't be read"):
        require_sound_header(tmp_path)
    with pytest.raises(DamagedFileError, match="can't be read"):
        require_sound_header(tmp_path / "missing")
