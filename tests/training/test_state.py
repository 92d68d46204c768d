import json
import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from minitx.errors import DamagedFileError
from minitx.training.state import TrainingState
from minitx.workflows.session import STATE_FILE, _load_tensors, read_state


@given(
    loss_sum=st.floats(allow_nan=False),
    best=st.floats(allow_nan=False),
    step=st.integers(0, 10**12),
    settled=st.booleans(),
)
def test_comes_back_to_the_bit(loss_sum, best, step, settled):
    state = TrainingState(
        steps=5, steps_decided=settled, step=step, loss_sum=loss_sum, best_holdout_loss=best
    )
    again = TrainingState.from_json(json.loads(state.to_json()))
    # Compared without the fields that are NaN, which equal nothing.
    for name in vars(state):
        a, b = getattr(state, name), getattr(again, name)
        assert a == b or (math.isnan(a) and math.isnan(b)), name
        assert type(a) is type(b)


@pytest.mark.parametrize(
    "content",
    [
        b"", b"[]", b"{}", b"\xff", b"[" * 10_000,
        TrainingState(steps=5).to_json().replace(b'"step": 0', b'"step": "0"'),
        TrainingState(steps=5).to_json().replace(b'"step": 0', b'"step": -7'),
        TrainingState(steps=5).to_json().replace(b'"step": 0', b'"step": 1.5'),
        TrainingState(steps=5).to_json().replace(b"true", b"1"),
        TrainingState(steps=5).to_json().replace(b'"tokens"', b'"token"'),
        TrainingState(steps=5).to_json().replace(b'"nan"', b'"many"'),
    ],
)  # fmt: skip
def test_damage_is_refused_in_one_line(content, tmp_path):
    (tmp_path / STATE_FILE).write_bytes(content)
    with pytest.raises(DamagedFileError, match="training_state.json can't be used") as caught:
        read_state(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("own", [None, slice(0, 2), slice(1, 3), slice(3, 3)])
def test_rows_of_a_process_are_read_also_where_it_has_none(tmp_path, own):
    tensors = {"matrix": torch.arange(6.0).reshape(3, 2), "step": torch.tensor(4.0)}
    save_file(tensors, tmp_path / "file.safetensors")
    rows = _load_tensors(tmp_path / "file.safetensors", SimpleNamespace(own_rows=lambda name: own))
    assert rows["matrix"].equal(tensors["matrix"] if own is None else tensors["matrix"][own])
    assert rows["matrix"].shape[1] == 2
    assert rows["step"] == 4.0
