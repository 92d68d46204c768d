"""float16: the loss is scaled, a step that overflows is skipped, and nothing is hidden by that."""

from __future__ import annotations

import json
import math
import shutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_runs import TINY_MODEL, TINY_TRAIN

from minitx.compute import Compute, choose_dtype
from minitx.config import TrainConfig
from minitx.errors import InstabilityError
from minitx.model import Transformer
from minitx.training import gradients, loss_scale
from minitx.training.gradients import GradientPass
from minitx.training.loss_scale import LossScale
from minitx.training.observer import TrainingObserver
from minitx.training.optimizers import make_optimizer
from minitx.training.state import TrainingState
from minitx.workflows.resume import ResumeRequest, resume
from minitx.workflows.train import TrainRequest, train
from tests.processes.several import digests, losses, metrics
from tests.small_models import SHAPE

HALF = Compute(torch.device("cpu"), torch.float16)


@settings(max_examples=60, deadline=None)
@given(
    overflows=st.lists(st.booleans(), max_size=60),
    first=st.sampled_from([2.0**16, 8.0]),
    every=st.integers(1, 7),
)
def test_the_scale_is_that_of_torch(overflows, first, every):
    """Step by step against torch's own update, which knows no smallest scale."""
    state = TrainingState(steps=1, loss_scale=first)
    scale, kept = torch.tensor(first), torch.tensor(0, dtype=torch.int32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loss_scale, "DOUBLED_AFTER", every)
        for number, overflow in enumerate(overflows):
            if state.loss_scale <= 1.0 and overflow:
                break
            found = torch.tensor(float(overflow))
            torch._amp_update_scale_(scale, kept, found, 2.0, 0.5, every)
            norm = math.inf if overflow else 1.0
            assert LossScale(state).skips(2.0, norm) is overflow
            assert state.loss_scale == float(scale)
            assert state.scale_kept_for == int(kept)
            assert state.skipped_steps == sum(overflows[: number + 1])


@pytest.mark.parametrize(
    ("loss", "norm", "scale"),
    [(math.nan, math.nan, 2.0**16), (math.inf, 1e9 * 1e300 * 10, 8.0), (2.0, math.nan, 1.0)],
)
def test_what_is_no_matter_of_the_scale_is_not_skipped(loss, norm, scale):
    state = TrainingState(steps=1, loss_scale=scale)
    assert not LossScale(state).skips(loss, norm)
    assert (state.loss_scale, state.skipped_steps) == (scale, 0)


def test_small_gradients_do_not_vanish():
    """Of a batch so large that a gradient's share of it is below what float16 can hold."""

    def computed(compute, scale):
        torch.manual_seed(1)
        model = Transformer(SHAPE).eval()
        ids = torch.randint(SHAPE.vocab_size, (4, 12), generator=torch.Generator().manual_seed(2))
        # The loss of a step of many passes.
        GradientPass(model, compute, passes=2**14, engine="plain")(
            ids, ids.roll(-1, 1), scale=scale
        )
        found = [p.grad for p in model.parameters()]
        LossScale(TrainingState(steps=1, loss_scale=scale)).divide(found)
        return torch.cat([gradient.flatten() for gradient in found])

    exact = computed(Compute(torch.device("cpu"), torch.float32), 1.0)
    for scale, is_good in ((2.0**16, True), (1.0, False)):
        error = float((computed(HALF, scale) - exact).norm() / exact.norm())
        assert (error < 0.01) is is_good, error


def test_division_is_exact():
    numbers = torch.randn(1000) * 2.0 ** torch.randint(-20, 20, (1000,))
    divided = numbers * 2.0**16
    LossScale(TrainingState(steps=1)).divide([divided])
    assert divided.equal(numbers)


def test_where_a_gpu_has_no_bfloat16_it_is_chosen(monkeypatch):
    cuda = torch.device("cuda")
    for has, expected in ((True, torch.bfloat16), (False, torch.float16)):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda has=has, **_: has)
        assert choose_dtype("auto", cuda) == expected
    assert choose_dtype("float32", cuda) == torch.float32
    assert choose_dtype("float16", torch.device("cpu")) == torch.float16


def test_products_of_an_optimizer_are_in_float32():
    model, config = Transformer(SHAPE), TrainConfig(steps=1, batch_size=1, learning_rate=0.1)
    assert make_optimizer(model, config, torch.float16).product_dtype == torch.float32
    assert make_optimizer(model, config, torch.bfloat16).product_dtype == torch.bfloat16


class Overflows:
    """Plants an infinite gradient in some steps, or from a step on whatever the scale."""

    def __init__(self, monkeypatch, steps=(), always_from=10**9, loss=None):
        original = gradients.StepGradients.__call__

        def planted(step_gradients, step, scale=1.0):
            result = original(step_gradients, step, scale)
            if step + 1 in steps or step + 1 >= always_from:
                step_gradients._parameters[3].grad.view(-1)[1] = math.inf
                return result if loss is None else torch.tensor(loss)
            return result

        monkeypatch.setattr(gradients.StepGradients, "__call__", planted)


class Events(TrainingObserver):
    def __init__(self):
        self.told = []

    def on_event(self, event):
        self.told.append(event)


def request(verses, out, **given):
    keys = {**TINY_TRAIN, "dtype": "float16", "log_every": 1, "steps": 20, **given}
    return TrainRequest(data={"corpus": (str(verses),)}, model=TINY_MODEL, train=keys, out=out)


def state_of(run, step):
    return json.loads((run / f"checkpoints/step-{step:06d}/training_state.json").read_text())


def test_it_learns_what_float32_does(verses, tmp_path):
    half, full = tmp_path / "half", tmp_path / "full"
    train(request(verses, half, steps=30), [])
    train(request(verses, full, steps=30, dtype="float32"), [])
    found, expected = losses(half), losses(full)
    assert max(abs(found[key] / expected[key] - 1) for key in found) < 0.01
    assert 'dtype = "float16"' in (half / "run.toml").read_text()


@pytest.mark.parametrize("on_spike", ["warn", "rollback"])
def test_a_step_that_overflows_is_skipped_counted_and_told(monkeypatch, verses, tmp_path, on_spike):
    Overflows(monkeypatch, steps=(3, 4, 9))
    events, run = Events(), tmp_path / "run"
    train(request(verses, run, on_spike=on_spike), [events])
    state = state_of(run, 20)
    assert state["skipped_steps"] == 3
    assert state["loss_scale"] == 2.0**13
    assert state["scale_kept_for"] == 11
    told = [event for event in events.told if event.name == "overflow"]
    assert [event.step for event in told] == [3, 4]
    assert "2 so far" in told[1].message
    assert not {"not-a-number", "rollback"} & {event.name for event in events.told}
    # Nothing was learned in them.
    steps = [line["step"] for line in metrics(run) if line["kind"] == "step"]
    assert not {3, 4, 9} & set(steps)


def test_a_skipped_step_changes_no_weight(monkeypatch, verses, tmp_path):
    Overflows(monkeypatch, steps=range(11, 21))
    run = tmp_path / "run"
    train(request(verses, run, keep_checkpoints=9), [])
    assert digests(run, 20) == digests(run, 10)


def test_what_no_scale_helps_against_still_stops_the_run(monkeypatch, verses, tmp_path):
    Overflows(monkeypatch, always_from=2)
    with pytest.raises(InstabilityError, match="gradient norm of step 18 is (inf|nan)"):
        train(request(verses, tmp_path / "run"), [])


def test_a_loss_that_is_no_number_is_no_overflow(monkeypatch, verses, tmp_path):
    Overflows(monkeypatch, steps=(5,), loss=math.nan)
    with pytest.raises(InstabilityError, match="loss of step 5 is nan"):
        train(request(verses, tmp_path / "run"), [])


def test_a_resumed_run_has_the_scale_to_the_bit(monkeypatch, verses, tmp_path):
    monkeypatch.setattr(loss_scale, "DOUBLED_AFTER", 6)
    Overflows(monkeypatch, steps=(3, 9, 18))
    whole, again = tmp_path / "whole", tmp_path / "again"
    train(request(verses, whole, keep_checkpoints=9), [])
    shutil.copytree(whole, again)
    shutil.rmtree(again / "checkpoints" / "step-000020")
    resume(ResumeRequest(again), [])
    assert digests(again, 20) == digests(whole, 20)
    assert state_of(again, 20)["loss_scale"] == state_of(whole, 20)["loss_scale"]
    assert state_of(again, 20)["skipped_steps"] == 3


def test_states_of_earlier_versions_are_read():
    values = json.loads(TrainingState(steps=5, step=2).to_json())
    for key in ("loss_scale", "scale_kept_for", "skipped_steps"):
        del values[key]
    assert TrainingState.from_json(values).loss_scale == 2.0**16
    del values["step"]
    with pytest.raises(ValueError, match="keys"):
        TrainingState.from_json(values)
