"""A run that can't fit is refused in one line, before memory is asked for, with one that fits."""

import shlex

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minitx.config import ModelConfig, TrainConfig
from minitx.errors import BadInputError
from minitx.model import Transformer
from minitx.training import memory
from minitx.training.memory import Workload, alternative, require_memory, weight_bytes
from minitx.training.optimizers import OPTIMIZERS, make_optimizer
from minitx.training.planning import planned_shape

FLAGS = {
    "--layers": "n_layers", "--d-model": "d_model", "--heads": "n_heads", "--d-ff": "d_ff",
    "--kv-heads": "n_kv_heads", "--head-dim": "head_dim", "--context": "context_length",
}  # fmt: skip


@pytest.mark.parametrize("optimizer", OPTIMIZERS.names())
def test_weights_and_moments_take_no_less(optimizer):
    """Counted on a model of the real kind, in bytes."""
    config = planned_shape({"n_layers": 2, "d_model": 64, "context_length": 16})
    model = Transformer(config)
    trained = make_optimizer(model, TrainConfig(steps=1, batch_size=1, learning_rate=0.1,
                                           optimizer=optimizer))  # fmt: skip
    ids = torch.zeros(1, 9, dtype=torch.long)
    model.loss(ids[:, :-1], ids[:, 1:]).backward()
    gradients = sum(p.grad.nbytes for p in model.parameters())
    trained.step(1.0)
    weights = sum(p.nbytes for p in model.parameters())
    moments = sum(t.nbytes for t in trained.state_tensors().values())
    needed = weight_bytes(config, Workload(state_bytes=OPTIMIZERS.get(optimizer).state_bytes))
    assert needed <= weights + gradients + moments
    assert needed >= 0.9 * (weights + gradients + moments)


@settings(max_examples=200, deadline=None)
@given(
    layers=st.integers(1, 1024),
    heads=st.integers(1, 64),
    head_dim=st.integers(1, 128).map(lambda n: 2 * n),
    context=st.integers(1, 2**14),
    batch=st.integers(1, 2**14),
    gigabytes=st.floats(1, 100, allow_subnormal=False),
    architecture=st.sampled_from(["qwen3", "gpt2"]),
    optimizer=st.sampled_from(OPTIMIZERS.names()),
)
def test_what_is_proposed_fits(
    layers, heads, head_dim, context, batch, gigabytes, architecture, optimizer
):
    asked = {
        "architecture": architecture, "n_layers": layers, "n_heads": heads,
        "d_model": heads * head_dim, "context_length": context,
    }  # fmt: skip
    state_bytes = OPTIMIZERS.get(optimizer).state_bytes
    model, free = planned_shape(asked), int(gigabytes * 1e9)
    try:
        require_memory(model, Workload(batch, state_bytes), free)
    except BadInputError as error:
        proposed = error.fix.removeprefix("This fits: ")
        words = shlex.split(proposed)
        flags = dict(zip(words[::2], words[1::2], strict=True))
        size = int(flags.pop("--batch-size", batch))
        # As a person would give them: with the flags that they gave before.
        small = planned_shape({**asked, **{FLAGS[flag]: int(v) for flag, v in flags.items()}})
        require_memory(small, Workload(size, state_bytes), free)
        assert small.n_parameters <= model.n_parameters


def test_what_fits_is_not_refused():
    model = planned_shape({"n_layers": 12, "d_model": 768, "context_length": 128})
    require_memory(model, Workload(8), 8 * 10**9)
    require_memory(model, Workload(10**6), None)
    with pytest.raises(BadInputError, match="tokens at once takes at least"):
        require_memory(model, Workload(10**6), 8 * 10**9)


def test_a_vocabulary_that_no_size_makes_room_for():
    model = ModelConfig(
        vocab_size=2**24, context_length=8, n_layers=1, n_heads=1, n_kv_heads=1, d_model=64,
        d_ff=64, head_dim=64,
    )  # fmt: skip
    assert alternative(model, Workload(), 10**9) == ""
    with pytest.raises(BadInputError, match="Choose a smaller --vocab-size"):
        require_memory(model, Workload(), 10**9)


@pytest.mark.parametrize(
    "flags", ["--layers 1024 --d-model 65536", "--layers 12 --d-model 768 --batch-size 1000000"]
)
def test_huge_sizes_are_refused_in_one_line(flags, minitx, inside, verses):
    done = minitx("train", verses, *flags.split(), "--context", "64", "--steps", "2")
    assert done.code == 2
    (line,) = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert " GB of memory, and " in line
    assert "This fits: --" in line
    assert not list(inside.glob("runs/*"))


def test_a_container_may_have_less_than_the_machine(tmp_path, monkeypatch):
    for content, expected in (("1000000\n", 1_000_000), ("max\n", None)):
        limit = tmp_path / "memory.max"
        limit.write_text(content)
        monkeypatch.setattr(memory, "_CGROUP_LIMITS", (str(limit), str(tmp_path / "none")))
        found = memory.free_memory()
        assert found == expected or (expected is None and found != 1_000_000)
