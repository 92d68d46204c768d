"""The cost model against what is counted on real models, and against arithmetic by hand."""

from dataclasses import replace

import pytest
import torch

from minitx.config import ModelConfig, TrainConfig
from minitx.engine import native_bytes
from minitx.errors import BadInputError
from minitx.model import Transformer, without_memory
from minitx.training.cost import Workload, _kept, memory, step_cost
from minitx.training.devices import DEVICES, EFFICIENCY, NETWORK, device_named
from minitx.training.optimizers import OPTIMIZERS, make_optimizer


def config(**changed):
    return ModelConfig(
        **{
            "vocab_size": 96, "context_length": 24, "n_layers": 2, "n_heads": 4, "n_kv_heads": 4,
            "d_model": 32, "d_ff": 88, "head_dim": 8, "tie_embeddings": False, **changed,
        }
    )  # fmt: skip


def kept_by_autograd(shape, dtype, rows):
    """Bytes that are saved for the way back, weights and their copies left out."""
    torch.manual_seed(0)
    model = Transformer(shape).train()
    ids = torch.randint(shape.vocab_size, (rows, shape.context_length))
    own = {parameter.data_ptr() for parameter in model.parameters()}
    seen = {}

    def pack(tensor):
        seen[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        low = dtype == torch.bfloat16
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            model.loss(ids, ids)
    return sum(t.untyped_storage().nbytes() for pointer, t in seen.items() if pointer not in own)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "shape",
    [
        config(), config(n_kv_heads=2), config(n_layers=3, d_ff=40, head_dim=16),
        config(architecture="gpt2"), config(architecture="gpt2", d_ff=200),
    ],
)  # fmt: skip
def test_what_autograd_keeps_is_counted_to_a_percent(shape, dtype):
    """As the difference of two batches: copies of weights and tables do not grow with one."""
    few, many = (kept_by_autograd(shape, dtype, rows) for rows in (8, 24))
    counted = (many - few) / (16 * shape.context_length)
    ids = 8 + 4 * shape.vocab_size  # targets, and log-probabilities
    expected = _kept(shape, dtype.itemsize, recompute=False)
    assert counted - ids == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("optimizer", OPTIMIZERS.names())
@pytest.mark.parametrize("shape", [config(), config(n_layers=5, tie_embeddings=True)])
def test_weights_and_moments_are_exact(shape, optimizer):
    model = Transformer(shape)
    train = TrainConfig(steps=1, batch_size=1, learning_rate=0.1, optimizer=optimizer)
    made = make_optimizer(model, train)
    found = memory(shape, Workload(optimizer=optimizer))
    assert found.weights == sum(p.nbytes for p in model.parameters())
    moments = sum(t.nbytes for t in made.state_tensors().values())
    assert found.moments == pytest.approx(moments, rel=1e-3)
    cost = step_cost(shape, Workload(optimizer=optimizer), DEVICES["h100"])
    assert cost.update_operations == pytest.approx(made.product_flops())
    assert {p.device.type for p in without_memory(shape).parameters()} == {"meta"}


def test_the_kernels_keep_less_than_autograd():
    shape = config(d_model=64, head_dim=16, d_ff=192)
    found = native_bytes(shape, 4, torch.float32)
    if found is None:
        pytest.skip("no compiled kernels here")
    kept, room, head = found
    assert 0 < kept < 4 * 24 * _kept(shape, 4, recompute=False)
    assert min(room, head) > 0
    assert native_bytes(shape, 400, torch.float32) == native_bytes(shape, 4000, torch.float32)
    assert native_bytes(config(architecture="gpt2"), 4, torch.float32) is None


def test_what_is_shared_out_shrinks_and_what_is_recomputed_is_not_kept():
    shape = config(n_layers=12, d_model=256, head_dim=64, d_ff=704)
    work = Workload(8, dtype="bfloat16", native=False, on_cpu=False)
    whole = memory(shape, work)
    parts = memory(shape, replace(work, processes=8, shard=True))
    for name in ("weights", "gradients", "moments"):
        assert getattr(parts, name) == getattr(whole, name) // 8
    assert parts.activations == whole.activations
    again = memory(shape, replace(work, recompute=True))
    assert again.activations < whole.activations / 5
    assert again.peak < whole.peak
    assert whole.snapshot == 0 < memory(shape, replace(work, on_cpu=True)).snapshot


def test_the_time_of_a_step_by_hand():
    shape, device = config(), DEVICES["h100"]
    work = Workload(batch_size=8, optimizer="adamw", native=False, on_cpu=False)
    one = step_cost(shape, work, device)
    tokens = 8 * shape.context_length
    assert one.operations == tokens * shape.flops_per_token
    assert one.seconds == one.compute_seconds == one.operations / (EFFICIENCY * 989e12)
    assert one.sent_seconds == 0
    eight = step_cost(shape, replace(work, processes=8), device)
    assert eight.sent_seconds == pytest.approx(8 * shape.n_parameters * 7 / 8 / 450e9)
    far = step_cost(shape, replace(work, processes=16, shard=True), device)
    assert far.sent_seconds == pytest.approx(12 * shape.n_parameters * 15 / 16 / NETWORK)
    assert far.seconds == pytest.approx(max(far.compute_seconds, far.sent_seconds))


def test_a_device_is_one_of_the_table_or_has_its_figures_given():
    assert device_named("H100") == DEVICES["h100"]
    own = device_named("mine", memory=12, tflops=30)
    assert (own.memory, own.rate, own.source) == (12e9, 30e12, "")
    assert device_named("h200", memory=100).memory == 100e9
    assert all(device.source for device in DEVICES.values())
    with pytest.raises(BadInputError, match="no figures of a device h9"):
        device_named("h9", memory=3)


def test_passes_are_added_up_in_float64_and_processes_alone_are_not():
    shape = config()
    work = Workload(native=False, dtype="float32")
    several = {
        (n, passes): memory(shape, replace(work, processes=n, accumulation=passes)).gradients
        for n in (1, 2)
        for passes in (1, 4)
    }
    assert several[1, 1] == several[2, 1]
    assert several[1, 4] == several[2, 4] == several[1, 1] + 8 * shape.n_parameters
