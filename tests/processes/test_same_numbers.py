"""How far a run depends on the number of processes: in the rounding of sums alone."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from tests.processes.several import SMALL, losses, minitx, text_file

SIZES = (1, 2, 4)


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
        apart = {key: abs(other[key] - loss) / loss for key, loss in alone.items()}
        assert other.keys() == alone.keys()
        assert max(apart.values()) < 1e-6, apart
