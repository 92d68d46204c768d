"""How far a run depends on the number of processes: in the rounding of sums alone."""

from __future__ import annotations

import sys

import pytest
import torch
from safetensors.torch import load_file

from tests.processes.several import SMALL, begin, free_port, losses, minitx, text_file

SIZES = (1, 2, 4)
TOLERANCE = 1e-6
"""Of losses in float32, relative."""


def runs(directory, *given):
    """The same run in 1, 2 and 4 processes."""
    text, made = text_file(directory), []
    for size in SIZES:
        made.append(directory / f"in-{size}")
        minitx("train", text, "--out", made[-1], *SMALL, *given, "--processes", size)
    return made


def test_gradients_agree(tmp_path):
    # After one step, AdamW's first moment is the gradient, but for a factor.
    alone, *others = runs(tmp_path, "--steps", 1, "--dropout", 0.1, "--optimizer", "adamw")

    def moments(run):
        tensors = load_file(run / "checkpoints" / "step-000001" / "optimizer.safetensors")
        return {name: tensor for name, tensor in tensors.items() if "first_moment" in name}

    wanted = moments(alone)
    for other in others:
        for name, moment in moments(other).items():
            apart = torch.linalg.vector_norm(moment - wanted[name])
            assert apart < 1e-5 * torch.linalg.vector_norm(wanted[name]), name


@pytest.mark.campaign
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_losses_of_200_steps_agree(tmp_path, optimizer):
    given = ["--steps", 200, "--dropout", 0.1, "--optimizer", optimizer, "--evaluate-every", 100]
    alone, *others = map(losses, runs(tmp_path, *given))
    for other in others:
        assert other.keys() == alone.keys()
        apart = {key: abs(other[key] - loss) / loss for key, loss in alone.items()}
        assert max(apart.values()) < TOLERANCE


@pytest.mark.campaign
@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_in_float64_they_agree_to_far_more_digits(tmp_path, optimizer, sharded):
    # So what grows in float32 is its rounding, and no other text, mask, rate or state.
    text, made = text_file(tmp_path), []
    given = ["--steps", 100, "--dropout", 0.1, "--optimizer", optimizer, "--evaluate-every", 50]
    for size in SIZES:
        made.append(tmp_path / f"in-{size}")
        shard = ["--shard"] if sharded and size > 1 else []
        words = in_float64("train", text, "--out", made[-1], *SMALL, *given, *shard)
        about = {"WORLD_SIZE": str(size), "MASTER_ADDR": "localhost"}
        about["MASTER_PORT"] = str(free_port())
        started = [begin(words, RANK=str(rank), **about) for rank in range(size)]
        assert [process.wait(timeout=250) for process in started] == [0] * size
    alone, *others = map(losses, made)
    for other in others:
        apart = {key: abs(other[key] - loss) / loss for key, loss in alone.items()}
        assert max(apart.values()) < 1e-12


def in_float64(*arguments):
    code = (
        "import torch; torch.set_default_dtype(torch.float64); "
        "from minitx.diagnosis.live import UpdateMeter; "
        "UpdateMeter.after_update = lambda self, step: None; "  # It looks on, in float32.
        "from minitx.cli.app import main; main()"
    )
    return [sys.executable, "-c", code, *map(str, arguments)]
