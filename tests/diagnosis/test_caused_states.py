"""Each state is caused by a recipe that leads to it, and is named: live, and looking back."""

import json

import pytest
import torch
from diagnosis import recipes

from minitx.corpus import encoded
from minitx.errors import InstabilityError
from minitx.model import transformer
from minitx.training.batches import Batches
from minitx.workflows.diagnose import diagnose


def assert_named(run, name, also=()):
    """Live and afterwards, with everything that a finding has to say."""
    event = recipes.events(run)[name]
    assert event["message"]
    assert event["cause"]
    assert event["fix"]
    seen = {seen.finding.name: seen for seen in diagnose(run).findings}
    assert seen[name].finding.evidence == event["message"]
    assert set(recipes.events(run)) <= {name, *also}, "other names than expected"
    return event


@pytest.fixture
def poisoned(monkeypatch):
    """The batch of one step holds random tokens."""

    def poison(number):
        original = Batches.__getitem__

        def get(self, index):
            inputs, targets = original(self, index)
            if index == number:
                targets = targets.flip(0, 1) * 0 + int(self._ids.max())
            return inputs, targets

        monkeypatch.setattr(Batches, "__getitem__", get)

    return poison


def test_rate_too_high_without_clipping_diverges(tmp_path):
    run, _ = recipes.run_recipe(tmp_path, **recipes.NOT_CLIPPED)
    others = ("dead-activations", "attention-collapse", "underfitting", "loss-spike", "plateau")
    event = assert_named(run, "divergence", others)
    assert event["severity"] == "error"
    assert "not clipped" in event["cause"]
    assert "--grad-clip" in event["fix"]


def test_rate_too_high_kills_units(tmp_path):
    run, _ = recipes.run_recipe(tmp_path, **recipes.NOT_CLIPPED)
    assert "MLP units of layer" in recipes.events(run)["dead-activations"]["message"]


def test_overflow_names_the_first_tensor(tmp_path):
    run, error = recipes.run_recipe(tmp_path, **recipes.OVERFLOWING)
    assert isinstance(error, InstabilityError)
    assert error.exit_code == 4
    event = assert_named(run, "not-a-number")
    assert "the first tensor that is no number is weight " in event["message"]
    assert "weight " in str(error)


def test_poisoned_batch_is_a_spike(tmp_path, poisoned):
    poisoned(43)
    run, error = recipes.run_recipe(tmp_path)
    assert error is None
    event = assert_named(run, "loss-spike", ["underfitting"])
    assert event["step"] == 44
    assert event["severity"] == "warning"


def test_unbounded_attention_collapses(tmp_path):
    model = {"architecture": "gpt2"}
    run, _ = recipes.run_recipe(tmp_path, model=model, **recipes.COLLAPSING)
    others = ("dead-activations", "underfitting", "loss-spike", "divergence", "plateau")
    event = assert_named(run, "attention-collapse", others)
    assert "look at one position" in event["message"]


def test_rate_too_low_is_a_plateau(tmp_path):
    run, _ = recipes.run_recipe(tmp_path, **recipes.TOO_LOW)
    assert_named(run, "plateau", ["underfitting"])


def test_tiny_corpus_is_overfitted(tmp_path):
    run, _ = recipes.run_recipe(tmp_path, recipes.TEXT[:1500], steps=200, evaluate_every=20)
    event = assert_named(run, "overfitting", ["plateau"])
    assert "best checkpoint" in event["fix"]


def test_few_steps_are_underfitting(tmp_path):
    run, _ = recipes.run_recipe(tmp_path, steps=20)
    event = assert_named(run, "underfitting")
    assert "bigram" in event["message"]


def test_model_too_small_is_underfitting(tmp_path):
    """However long it is trained, two numbers wide can't hold what follows what."""
    small = {"n_layers": 1, "n_heads": 1, "d_model": 2, "d_ff": 2}
    run, _ = recipes.run_recipe(tmp_path, model=small, steps=300, evaluate_every=50)
    assert_named(run, "underfitting", ["plateau"])


def test_leaky_mask(tmp_path, monkeypatch):
    real = transformer.causal_mask
    monkeypatch.setattr(transformer, "causal_mask", lambda *sizes: torch.ones_like(real(*sizes)))
    run, _ = recipes.run_recipe(tmp_path, attention="explicit")
    event = assert_named(run, "leaky-mask", ["underfitting"])
    assert event["severity"] == "error"
    assert event["step"] == 20


def test_holdout_of_another_tokenizer(tmp_path, monkeypatch):
    """Its ids are shifted, as those of a tokenizer with a few characters more."""
    real = encoded._encode_part

    class Shifted:
        def __init__(self, tokenizer):
            self.tokenizer, self.unknown_id = tokenizer, tokenizer.unknown_id

        def encode_parts(self, text, unknown):
            for ids in self.tokenizer.encode_parts(text, unknown=unknown):
                yield (ids + 5) % self.tokenizer.vocab_size

    def encode(directory, part, text, tokenizer, dtype):
        used = Shifted(tokenizer) if part == "holdout" else tokenizer
        return real(directory, part, text, used, dtype)

    monkeypatch.setattr(encoded, "_encode_part", encode)
    run, _ = recipes.run_recipe(tmp_path, steps=80)
    event = assert_named(run, "mismatched-tokenizer")
    assert event["severity"] == "error"


def test_tokenizer_swapped_after_training(tmp_path):
    run, _ = recipes.run_recipe(tmp_path)
    path = run / "data/corpus.json"
    description = json.loads(path.read_text())
    description["tokenizer_digest"] = "0" * 64
    path.write_text(json.dumps(description))
    found = {seen.finding.name: seen.finding for seen in diagnose(run).findings}
    assert "digest" in found["mismatched-tokenizer"].evidence


SEEDS = range(20)


def assert_no_alarm(tmp_path, seed):
    variants = [{}, {"architecture": "gpt2"}, {"n_kv_heads": 1}, {"dropout": 0.1}]
    optimizer = "adamw" if seed % 5 == 4 else "muon"
    steps = 600 if optimizer == "adamw" else 400
    run, error = recipes.run_recipe(
        tmp_path,
        model=variants[seed % 4],
        **{**recipes.HEALTHY, "steps": steps, "optimizer": optimizer, "seed": seed},
    )
    assert error is None
    assert recipes.lines(run, "event") == []
    assert diagnose(run).findings == ()


@pytest.mark.parametrize("seed", SEEDS[:2])
def test_healthy_runs_raise_no_alarm(tmp_path, seed):
    assert_no_alarm(tmp_path, seed)


@pytest.mark.campaign
@pytest.mark.parametrize("seed", SEEDS)
def test_twenty_healthy_runs_raise_no_alarm(tmp_path, seed):
    assert_no_alarm(tmp_path, seed)
