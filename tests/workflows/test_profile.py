"""A profile's parts add up, and time goes to the part that spent it."""

import json
import time

import numpy as np
import pytest
import torch

from minitx.compute import Compute
from minitx.config import ModelConfig, TrainConfig
from minitx.model import Transformer, matrix_parameters
from minitx.model.transformer import SwiGLU
from minitx.training.batches import Batches
from minitx.training.optimizers import make_optimizer
from minitx.training.optimizers.muon import orthogonalize
from minitx.workflows.profile import PARTS, part_flops, profile_steps

CPU = torch.device("cpu")
CONFIG = ModelConfig(
    vocab_size=11, context_length=8, n_layers=3, n_heads=2, n_kv_heads=2, d_model=8, d_ff=16,
    head_dim=4,
)  # fmt: skip
TRAIN = TrainConfig(steps=1, batch_size=4, learning_rate=1e-3)


@pytest.fixture
def profiled():
    def profile(steps=4):
        torch.manual_seed(0)
        model = Transformer(CONFIG)
        batches = Batches(np.arange(500) % 11, 8, 4, 0, CPU)
        optimizer = make_optimizer(model, TRAIN)
        return model, profile_steps(
            model, optimizer, batches, Compute(CPU, torch.float32), 1e9, steps
        )

    return profile


def test_parts_add_up_to_the_step(profiled):
    model, profile = profiled()
    assert [part.part for part in profile.parts] == list(PARTS)
    assert sum(part.seconds for part in profile.parts) == pytest.approx(profile.seconds)
    assert profile.tokens == 32
    by_part = {part.part: part for part in profile.parts}
    for name in ("attention", "mlp", "norm", "head and loss"):
        assert by_part[name].forward_seconds > 0
        assert by_part[name].backward_seconds > 0
    assert by_part["optimizer"].step_seconds > 0
    # Nothing stays behind in the model.
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    assert sum(hooks) == 0


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_time_goes_to_the_part_that_spent_it(profiled, monkeypatch, direction):
    pause = 0.004
    original = SwiGLU.forward

    def slow(self, x):
        out = original(self, x)
        if direction == "forward":
            time.sleep(pause)
        elif out.requires_grad:
            # Between the gradient of the output and that of the input.
            x_like = out * 1.0
            x_like.register_hook(lambda gradient: time.sleep(pause))
            out = x_like * 1.0
        return out

    monkeypatch.setattr(SwiGLU, "forward", slow)
    _, profile = profiled(steps=2)
    by_part = {part.part: part for part in profile.parts}
    spent = getattr(by_part["mlp"], f"{direction}_seconds")
    assert spent >= CONFIG.n_layers * pause
    assert all(
        getattr(part, f"{direction}_seconds") < spent
        for part in profile.parts
        if part.part != "mlp"
    )


@pytest.mark.parametrize("architecture", ["qwen3", "gpt2"])
def test_operations_of_the_model_are_counted_once(architecture):
    config = ModelConfig(
        vocab_size=11, context_length=8, n_layers=3, n_heads=4, n_kv_heads=4, d_model=8, d_ff=24,
        head_dim=2, architecture=architecture,
    )  # fmt: skip
    assert sum(part_flops(config, 32).values()) == pytest.approx(32 * config.flops_per_token)


def test_operations_of_muon_are_those_that_torch_counts():
    from torch.utils.flop_counter import FlopCounterMode

    model = Transformer(CONFIG)
    with FlopCounterMode(display=False) as counter:
        for _, parameter, sections in matrix_parameters(model):
            for rows in sections:
                orthogonalize(torch.randn(1, rows, parameter.size(1)))
    flops = make_optimizer(model, TRAIN).product_flops()
    assert part_flops(CONFIG, 32, flops)["optimizer"] == flops == counter.get_total_flops()


def test_command_profiles_a_run_and_leaves_it_alone(minitx, tiny_run):
    before = {p: p.read_bytes() for p in tiny_run.rglob("*") if p.is_file()}
    done = minitx("profile", tiny_run, "--steps", "2", "--dtype", "float32")
    assert done.code == 0
    for word in ("attention", "optimizer", "tokens/s", "GFLOP/s"):
        assert word in done.out
    done = minitx("profile", tiny_run, "--steps", "2", "--json")
    found = json.loads(done.out)
    assert [part["part"] for part in found["parts"]] == list(PARTS)
    total = sum(part["milliseconds"] for part in found["parts"])
    assert total == pytest.approx(found["milliseconds"])
    assert {p: p.read_bytes() for p in tiny_run.rglob("*") if p.is_file()} == before


def test_bad_requests_are_refused(minitx, tiny_run, tmp_path):
    done = minitx("profile", tiny_run, "--steps", "0")
    assert done.code == 2
    assert len(done.err.strip().splitlines()) == 1
    done = minitx("profile", tmp_path / "nothing")
    assert done.code == 2
    assert len(done.err.strip().splitlines()) == 1
