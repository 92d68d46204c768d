"""Each state is caused by a recipe that leads to it, and is named: live, and looking back."""

import inspect
import json
import math
import re
from functools import partial

import numpy as np
import pytest
import torch
from diagnosis import recipes

from minitx.corpus import shards
from minitx.diagnosis.curves import CurveDetector, Moment
from minitx.errors import InstabilityError
from minitx.evaluation.ngrams import bigram_loss
from minitx.model import transformer
from minitx.tokenizer import train_tokenizer
from minitx.workflows.diagnose import diagnose


def assert_named(run, name, also=()):
    """Live and afterwards, with everything that a finding has to say."""
    event = recipes.events(run)[name]
    assert event["message"]
    assert event["cause"]
    assert event["fix"]
    seen = {seen.finding.name: seen for seen in diagnose(run).findings}
    assert seen[name].finding.message == event["message"]
    assert set(recipes.events(run)) <= {name, *also}, "other names than expected"
    return event


@pytest.mark.parametrize("seed", [1337, 1, 2, 3])
def test_rate_too_high_without_clipping_diverges(tmp_path, seed):
    run, _ = recipes.run_recipe(tmp_path, seed=seed, **recipes.NOT_CLIPPED)
    others = ("dead-activations", "attention-collapse", "underfitting", "loss-spike", "plateau")
    event = assert_named(run, "divergence", others)
    assert event["severity"] == "error"
    assert "not clipped" in event["cause"]
    assert "--grad-clip" in event["fix"]
    # Not by a hair: the least of what is told is far above a model that knows nothing.
    told = re.search(r"losses are above (\S+), where (\S+) was", event["message"])
    assert float(told[1]) > 3 * float(told[2])


def test_rate_too_high_kills_units(tmp_path):
    run, _ = recipes.run_recipe(tmp_path, **recipes.NOT_CLIPPED)
    assert "MLP units of layer" in recipes.events(run)["dead-activations"]["message"]


def test_overflow_names_the_first_tensor(tmp_path):
    run, error = recipes.run_recipe(tmp_path, **recipes.OVERFLOWING)
    assert isinstance(error, InstabilityError)
    assert error.exit_code == 4
    event = assert_named(run, "not-a-number")
    # A weight, or what the largest of them first leads to: that depends on the processor's sums.
    # torch's attention, which the plain model computes with, turns scores of NaN into numbers; then
    # the gradients are the first to tell.
    places = "weight|output of|gradient of"
    named = re.search(rf"first NaN or infinity is in ({places}) (\S+)", event["message"])
    assert named is not None
    assert named[2] in str(error)


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
    run, _ = recipes.run_recipe(tmp_path)
    event = assert_named(run, "leaky-mask", ["underfitting"])
    assert event["severity"] == "error"
    assert event["step"] == 20


@pytest.mark.parametrize("kind", ["char", "bpe"])
@pytest.mark.parametrize("changed", ["shifted", "permuted"])
@pytest.mark.parametrize("seed", [1, 2])
def test_holdout_of_another_tokenizer(tmp_path, monkeypatch, kind, changed, seed):
    """Told before the model has learned anything, and so on any machine."""
    real = shards.encode_shard

    class Other:
        def __init__(self, tokenizer):
            self.tokenizer, self.unknown_id = tokenizer, tokenizer.unknown_id
            self.vocab_size, self.digest = tokenizer.vocab_size, tokenizer.digest

        def encode_documents(self, *arguments):
            size = self.tokenizer.vocab_size
            table = np.random.default_rng(seed).permutation(size)
            for ids in self.tokenizer.encode_documents(*arguments):
                yield (ids + 1) % size if changed == "shifted" else table[ids]

    def encode(part, shard, tokenizer, directory):
        used = Other(tokenizer) if part.name == "holdout" else tokenizer
        return real(part, shard, used, directory)

    monkeypatch.setattr(shards, "encode_shard", encode)
    tokenizer = {"kind": kind} if kind == "char" else {"kind": kind, "vocab_size": 400}
    run, _ = recipes.run_recipe(
        tmp_path, tokenizer=tokenizer, steps=4, evaluate_every=2, checkpoint_every=4, seed=seed
    )
    event = assert_named(run, "mismatched-tokenizer")
    assert event["severity"] == "error"
    assert event["step"] == 2


@pytest.mark.parametrize("length", [400, 3000, 60_000])
@pytest.mark.parametrize("kind", ["char", "word", "bpe"])
def test_parts_of_one_text_match(length, kind):
    """A short text, or a holdout of another kind, is no mismatched tokenizer."""
    text = recipes.TEXT[:length]
    tokenizer = train_tokenizer(text[: length * 9 // 10], kind, 500 if kind == "bpe" else 0)
    train_ids, holdout_ids, other_ids = (
        np.concatenate([np.asarray(ids) for ids in tokenizer.encode_parts(part, unknown="replace")])
        for part in (text[: length * 9 // 10], text[length * 9 // 10 :], inspect.getsource(recipes))
    )
    uniform = math.log(tokenizer.vocab_size)
    own, other = (
        bigram_loss(train_ids, ids, tokenizer.vocab_size) for ids in (holdout_ids, other_ids)
    )
    foreign = [
        CurveDetector().on_evaluation(
            9, train, holdout, Moment(1.0, uniform, partial(float, pairs), is_last=False)
        )
        for pairs, train, holdout in (
            (own, 0.9 * uniform, uniform),
            (other, 0.9 * uniform, uniform),
            # However badly it is overfitted.
            (own if length > 1000 else 0.0, 0.1, 2 * uniform),
        )
    ]
    assert foreign == [[], [], []]


def test_tokenizer_swapped_after_training(tmp_path):
    run, _ = recipes.run_recipe(tmp_path)
    path = run / "data/corpus.json"
    description = json.loads(path.read_text())
    description["tokenizer_digest"] = "0" * 64
    path.write_text(json.dumps(description))
    found = {seen.finding.name: seen.finding for seen in diagnose(run).findings}
    assert "digest" in found["mismatched-tokenizer"].message


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
