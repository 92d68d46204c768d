"""The detectors by themselves: where their thresholds are, and that their state can be kept."""

import dataclasses
import json
import math
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_runs import TINY_MODEL

from minitx.compute import Compute
from minitx.config import ModelConfig, TrainConfig
from minitx.diagnosis.curves import CurveDetector, Moment
from minitx.diagnosis.findings import KINDS, Kind
from minitx.diagnosis.inside import InsideDetector, dead_part
from minitx.diagnosis.live import LiveDiagnosis, UpdateMeter
from minitx.diagnosis.losses import FEWEST, LEVEL, LossDetector
from minitx.diagnosis.nonfinite import first_nonfinite
from minitx.inspection import mask_check
from minitx.model import Transformer
from minitx.training.batches import Batches
from minitx.training.hooks import AnomalyDetector
from minitx.training.observer import ProbeReport, TrainingObserver
from minitx.training.optimizers import make_optimizer

CLIPPED = TrainConfig(steps=100, batch_size=2, learning_rate=0.01)
NOT_CLIPPED = dataclasses.replace(CLIPPED, grad_clip=0.0)


def told(detector, losses, config=CLIPPED):
    found = [(i, detector.on_loss(i, loss, 1.0, config)) for i, loss in enumerate(losses, 1)]
    return [(step, one.name) for step, one in found if one is not None]


def test_a_spike_is_told_at_its_step_and_not_again_at_once():
    losses = [2.0, 2.02] * 20
    assert told(LossDetector(5.0), [*losses, 4.0, 4.0, *losses]) == [(41, "loss-spike")]


def test_no_spike_is_told_before_there_is_anything_to_compare_with():
    losses = [2.0] * (FEWEST - 1)
    assert told(LossDetector(5.0), [*losses, 4.0]) == []
    assert told(LossDetector(5.0), [*losses, 2.0, 4.0]) == [(FEWEST + 1, "loss-spike")]


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    noise=st.floats(0, 0.15, allow_subnormal=False),
    half_life=st.floats(5, 500),
)
def test_a_loss_that_falls_with_noise_is_no_alarm(seed, noise, half_life):
    steps = np.arange(400)
    losses = 1.5 + 3 * 0.5 ** (steps / half_life)
    losses = losses + noise * np.random.default_rng(seed).standard_normal(400)
    assert told(LossDetector(4.6), losses.tolist()) == []


def test_divergence_is_told_once_and_once_more_after_it_was_over():
    low, high = [2.0] * LEVEL, [3.5] * (2 * LEVEL)
    names = [name for _, name in told(LossDetector(5.0), [*low, *high, *low, *low, *high])]
    assert names.count("divergence") == 2


def test_a_run_that_never_beats_uniform_diverges_too():
    assert ("divergence" in dict(map(reversed, told(LossDetector(4.0), [7.0] * LEVEL)))) is True


def test_the_cause_is_told_by_the_config():
    one = LossDetector(4.0)
    for step in range(LEVEL):
        found = one.on_loss(step, 7.0, 1.0, NOT_CLIPPED)
    assert "not clipped" in found.cause
    assert found.fix.startswith("Train with --grad-clip 1.")


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0, 20, allow_subnormal=False), max_size=120), st.integers(0, 120))
def test_kept_state_goes_on_as_if_nothing_had_been(losses, cut):
    whole, first = LossDetector(4.0), LossDetector(4.0)
    expected = told(whole, losses)
    before = told(first, losses[:cut])
    second = LossDetector(**json.loads(json.dumps(dataclasses.asdict(first))))
    after = [
        (step, one.name)
        for step, loss in enumerate(losses[cut:], len(losses[:cut]) + 1)
        if (one := second.on_loss(step, loss, 1.0, CLIPPED)) is not None
    ]
    assert before + after == expected
    assert second == whole


def curve(train, holdout, factor=1.0, pairs=2.0, end=False):
    detector, names = CurveDetector(), []
    for i, (one, other) in enumerate(zip(train, holdout, strict=True), 1):
        last = end and i == len(train)
        moment = Moment(factor, 4.0, partial(float, pairs), last)
        found = detector.on_evaluation(100 * i, one, other, moment)
        names += [(100 * i, finding.name) for finding in found]
    return names


def test_overfitting_needs_a_rise_and_a_falling_train_loss():
    falling = [3.0, 2.5, 2.2, 1.9, 1.7, 1.5]
    rising = [3.0, 2.6, 2.4, 2.5, 2.6, 2.7]
    assert curve(falling, rising) == [(600, "overfitting")]
    assert curve(falling, falling) == []
    # Both rise: that is no overfitting.
    assert curve(rising, rising, factor=0.0) == []
    # Within two parts in a hundred, and not long enough.
    assert curve(falling, [3.0, 2.6, 2.4, 2.41, 2.42, 2.43]) == []
    assert curve(falling[:5], rising[:5]) == []


def test_overfitting_that_is_over_can_be_told_again():
    train = [3.0, 2.5, 2.0, 1.8, 1.6, 1.4, 1.2, 1.0, 0.8, 0.6]
    holdout = [3.0, 2.5, 2.6, 2.7, 2.8, 2.4, 2.5, 2.6, 2.7, 2.8]
    assert curve(train, holdout) == [(500, "overfitting"), (900, "overfitting")]


def test_plateau_is_judged_by_half_a_run_at_a_rate_that_could_move():
    flat = [3.0, 3.001, 2.999, 3.0, 3.0, 3.001] * 2
    # From the fifth on, that are six evaluations.
    assert curve(flat, flat) == [(1000, "plateau")]
    assert curve(flat[:9], flat[:9]) == []
    assert curve(flat, flat, factor=0.1) == []
    falling = [3.0 - 0.01 * i for i in range(12)]
    assert curve(falling, falling) == []
    # Flat for a third of the run only.
    assert curve([*(4.0 - 0.05 * i for i in range(16)), *([3.2] * 8)], [2.0] * 24) == []


def test_underfitting_is_judged_at_the_end_against_pairs():
    high = [3.5, 3.0, 2.5]
    assert curve(high, high, pairs=2.0, end=True) == [(300, "underfitting")]
    assert curve(high, high, pairs=2.0) == []
    assert curve(high, high, pairs=2.48, end=True) == []
    # The train part is known well, only the holdout is not: that is no lack of fit.
    assert curve([3.5, 2.0, 1.0], high, pairs=2.0, end=True) == []
    assert curve(high, [math.nan] * 3, pairs=2.0, end=True) == [(300, "underfitting")]


def probed(**changes):
    usual = {
        "step": 9, "attention_entropy": ((1.5, 1.6), (1.4, 1.7)), "uniform_entropy": 2.5,
        "attention_score": (5.0, 6.0), "output_logit": 9.0, "dead_activations": (0.0, 0.1),
        "leaks": False,
    }  # fmt: skip
    return ProbeReport(**{**usual, **changes})


def names(report):
    return [finding.name for finding in InsideDetector().on_probe(report)]


def test_what_a_probe_shows():
    assert names(probed()) == []
    assert names(probed(leaks=True)) == ["leaky-mask"]
    assert names(probed(dead_activations=(0.0, 0.6))) == ["dead-activations"]
    low = ((0.01, 0.02), (1.4, 1.7))
    assert names(probed(attention_entropy=low, attention_score=(40.0, 6.0))) == [
        "attention-collapse"
    ]
    # Sharp heads are what some texts ask for: the scores are small, or they are few.
    assert names(probed(attention_entropy=low)) == []
    few = ((0.01, 1.6), (1.4, 1.7))
    assert names(probed(attention_entropy=few, attention_score=(40.0, 6.0))) == []


def test_what_a_probe_shows_is_told_once():
    detector = InsideDetector()
    assert detector.on_probe(probed(leaks=True))
    assert not detector.on_probe(probed(leaks=True))
    assert detector.on_probe(probed(leaks=True, dead_activations=(0.9, 0.0)))


def test_a_diagnosis_from_outside_needs_no_other_change():
    @Kind("loud-logits", "warning", "they shout", "Whisper", looks_at="probes")
    def loud(report):
        return f"a logit of {report.output_logit}" if report.output_logit > 100 else None

    @Kind("odd-step", "error", "chance", "Wait", looks_at="evaluations")
    def odd(curves, moment):
        return "odd" if curves.steps[-1] == 200 and moment.uniform_loss == 4.0 else None

    try:
        assert names(probed()) == []
        (event,) = InsideDetector().on_probe(probed(output_logit=101.0))
        assert (event.name, event.severity, event.cause) == ("loud-logits", "warning", "they shout")
        assert (event.message, event.fix) == ("a logit of 101.0", "Whisper")
        assert curve([3.0, 2.9, 2.8], [3.0, 2.9, 2.8]) == [(200, "odd-step")]
        with pytest.raises(ValueError, match="already a finding called 'odd-step'"):
            Kind("odd-step", "error", "", "")(lambda: None)
    finally:
        for name in ("loud-logits", "odd-step"):
            del KINDS._kinds[name]


def test_dead_units_are_counted():
    hidden = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(1))
    assert dead_part(hidden) == 0.0
    hidden[..., [1, 4, 6]] = 0.0
    assert dead_part(hidden) == 3 / 8
    # One token that moves it keeps a unit alive.
    hidden[1, 3, 4] = 2.0
    assert dead_part(hidden) == 2 / 8
    assert dead_part(torch.zeros(2, 5, 8)) == 1.0


@pytest.fixture
def model():
    torch.manual_seed(1)
    return Transformer(ModelConfig(vocab_size=20, head_dim=8, **TINY_MODEL))


def test_update_ratio_is_that_of_the_weights_before_and_after(model):
    config = dataclasses.replace(CLIPPED, log_every=10)
    optimizer, meter = make_optimizer(model, config), UpdateMeter(model, 10)
    ids = torch.randint(20, (2, 9))
    model.loss(ids[:, :-1], ids[:, 1:]).backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    _, norms = optimizer.clip_gradients()
    meter.before_update(10, norms)
    optimizer.update(1.0)
    report = meter.after_update(10)
    after = dict(model.named_parameters())

    def norm(tensors):
        return math.sqrt(sum(float(t.double().square().sum()) for t in tensors))

    mine = [name for name in before if name.startswith("blocks.1.")]
    assert report.gradient_norms["blocks.1"] == pytest.approx(norm(gradients[n] for n in mine))
    ratio = norm(after[n].detach() - before[n] for n in mine) / norm(before[n] for n in mine)
    assert report.update_ratios["blocks.1"] == pytest.approx(ratio, rel=1e-4)
    assert list(report.gradient_norms) == ["embedding", "blocks.0", "blocks.1", "norm"]
    meter.before_update(11, norms)
    assert meter.after_update(11) is None, "not due"


def broken(model, place):
    compute = Compute(torch.device("cpu"), torch.float32)
    ids = torch.randint(20, (2, 9), generator=torch.Generator().manual_seed(1))
    batch = (ids[:, :-1], ids[:, 1:])
    if place != "gradient":
        return first_nonfinite(model, [batch], compute)
    model.loss(*batch).backward()
    model.blocks[0].mlp.down.weight.grad[0, 0] = math.inf
    model.embedding.weight.grad[:] = math.nan
    found = first_nonfinite(model, [batch], compute)
    model.zero_grad()
    return found


def test_first_broken_tensor_is_named(model):
    assert broken(model, "nothing") is None
    assert broken(model, "gradient").startswith("gradient of blocks.0.mlp.down.weight (1 of ")
    with torch.no_grad():
        # Finite, but the output of the block's last matrix is not, nor anything after it.
        model.blocks[1].mlp.gate_up.weight.fill_(30.0)
        model.blocks[1].mlp.down.weight.fill_(3e38)
    assert broken(model, "output").startswith("output of blocks.1.mlp.down (")
    with torch.no_grad():
        model.blocks[1].mlp.down.weight[0, 0] = math.nan
    assert broken(model, "weight").startswith("weight blocks.1.mlp.down.weight (1 of ")


@pytest.mark.parametrize(
    ("loss", "norm", "told"),
    [
        (math.nan, 1.0, "the loss of step 7 is nan"),
        (math.inf, 1.0, "the loss of step 7 is inf"),
        (1.0, math.inf, "the gradient norm of step 7 is inf"),
    ],
)
def test_the_base_class_sees_nan(loss, norm, told):
    detector = AnomalyDetector()
    assert detector.on_loss(7, 1.0, 1.0) is None
    anomaly = detector.on_loss(7, loss, norm)
    assert (anomaly.what, anomaly.since, anomaly.is_fatal) == (told, 7, True)
    assert anomaly.fix
    assert detector.state() == {}


@pytest.fixture
def live(model):
    ids = np.arange(4000) % 20
    batches = Batches(ids, 32, 2, 1, torch.device("cpu"))
    compute = Compute(torch.device("cpu"), torch.float32)
    return lambda: LiveDiagnosis(model, CLIPPED, compute, batches, ids, ids[:0], TrainingObserver())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_trains_is_probed_while_it_trains(model, monkeypatch, dtype):
    """A loss that looks one token ahead, in the engine and the number format of the run alone."""
    events, compute = [], Compute(torch.device("cpu"), dtype)
    config = dataclasses.replace(CLIPPED, engine="plain")

    def looking_ahead(model, used, engine):
        leaks = used == compute and engine == "plain"

        def loss(ids, targets):
            ahead = model.embedding.weight[ids.roll(-1, 1)].sum() * 1e-3
            return model.loss(ids, targets) + (ahead if leaks else 0.0)

        return loss

    class Noting(TrainingObserver):
        def observe(self, event):
            events.append(event)

    monkeypatch.setattr(mask_check, "loss_function", looking_ahead)
    ids = np.arange(4000) % 20
    batches = Batches(ids, 32, 2, 1, compute.device)
    live = LiveDiagnosis(model, config, compute, batches, ids, ids[:0], Noting())
    live.on_evaluation(1, 2.0, math.nan, 1.0, is_last=False)
    assert [event.name for event in events if event.kind == "event"] == ["leaky-mask"]


def test_state_of_the_whole_diagnosis_is_json_and_comes_back(live):
    first = live()
    for step in range(1, 40):
        first.on_loss(step, 9.0 if step == 30 else 2.0, 1.0)
    first.on_evaluation(40, 2.0, math.nan, 1.0, is_last=False)
    kept = json.dumps(first.state(), allow_nan=False)
    second = live()
    second.restore(json.loads(kept))
    assert json.dumps(second.state(), allow_nan=False) == kept
    assert second.on_loss(41, 9.0, 1.0) is None, "the pause after a spike was forgotten"


@pytest.mark.parametrize(
    "state", [{}, {"losses": {}}, {"losses": {"lowest": 1.0, "unknown": 2}}, {"losses": None}]
)
def test_state_that_is_none_is_refused(live, state):
    with pytest.raises((ValueError, AttributeError)):
        live().restore(state)
