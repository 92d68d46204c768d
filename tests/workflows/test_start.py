"""Training that begins with a model that is trained already."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from equal_runs import Cut, assert_equal_runs
from foreign_models import CLASSES, TEXT, foreign_model, foreign_tokenizer, save_foreign
from small_runs import TINY_MODEL, TINY_TRAIN
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from minitx.checkpoint import load_model
from minitx.checkpoint.rundir import RunDirectory
from minitx.corpus.encoded import load_encoded
from minitx.errors import BadInputError, InterruptedRunError
from minitx.evaluation.scoring import score, windows_for
from minitx.training.logging.metrics_file import read_metrics
from minitx.training.planning import TRAINED_EPOCHS, TRAINED_RATE, TRAINED_WIDTH
from minitx.workflows.resume import ResumeRequest, resume
from minitx.workflows.train import TrainRequest, train

LENGTH = {key: TINY_TRAIN[key] for key in ("evaluate_every", "checkpoint_every", "log_every")}
LENGTH |= {"steps": 12, "evaluate_every": 4, "checkpoint_every": 4, "batch_size": 4, "threads": 1}
LENGTH |= {"dtype": "float32", "device": "cpu", "keep_checkpoints": 9}


@pytest.fixture(scope="module")
def new_text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "new.txt"
    path.write_text("a brown fox jumps over 12 lazy dogs,\nand the dogs sleep on.\n" * 60)
    return path


@pytest.fixture(scope="module")
def first(tmp_path_factory, verses):
    """A finished run on other text."""
    request = TrainRequest(
        data={"corpus": (str(verses),)}, tokenizer={"kind": "bpe", "vocab_size": 300},
        model=TINY_MODEL, train=TINY_TRAIN, out=tmp_path_factory.mktemp("first") / "run",
    )  # fmt: skip
    return train(request, []).run


def further(start, text, out, model=None, **keys):
    return TrainRequest(
        data={"corpus": (str(text),)}, model=model or {}, out=out,
        train={**LENGTH, **keys, "start": str(start)},
    )  # fmt: skip


def evaluations(run):
    return [line for line in read_metrics(run / "metrics.jsonl") if line["kind"] == "evaluation"]


def test_it_begins_with_the_weights_and_sees_what_is_forgotten(first, new_text, tmp_path):
    run = train(further(first, new_text, tmp_path / "run"), []).run
    still = {"learning_rate": 0.0, "muon_learning_rate": 0.0}
    unmoved = train(further(first, new_text, tmp_path / "unmoved", **still), []).run
    directory, config = RunDirectory(run), RunDirectory(run).read_config()
    source = RunDirectory(first).usable_checkpoint("best")
    begun, before = load_model(RunDirectory(unmoved).checkpoint(12)), load_model(source)
    assert begun.tokenizer.digest == before.tokenizer.digest
    assert begun.model.config == before.model.config == config.model
    for name, weight in before.model.state_dict().items():
        assert weight.equal(begun.model.state_dict()[name])
    weights = (source / "model.safetensors").read_bytes()
    assert config.train.start_digest == hashlib.sha256(weights).hexdigest()
    assert config.train.start == str(source)
    old = load_encoded(first / "data").holdout_ids
    assert len(evaluations(run)) == 3
    for line in evaluations(run):
        model = load_model(directory.checkpoint(line["step"])).model
        expected = score(model, old, windows_for(model)).loss
        assert line["old_holdout_loss"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("family", sorted(CLASSES))
def test_what_is_written_opens_as_its_family(family, new_text, tmp_path):
    kind = "pieces" if family in ("llama", "mistral") else "bytes"
    theirs = foreign_model(family, rope="default" if family == "gpt2" else "llama3")
    save_foreign(tmp_path / "theirs", theirs, foreign_tokenizer(kind), max_shard_size="20KB")
    run = train(further(tmp_path / "theirs", new_text, tmp_path / "run"), []).run
    checkpoint = RunDirectory(run).usable_checkpoint("last")
    ours = load_model(checkpoint)
    again = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    assert type(again) is type(theirs)
    ids = torch.randint(320, (2, 48), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours.model(ids), again(ids).logits, atol=1e-5, rtol=1e-5)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(checkpoint)
    assert (
        tokenizer(TEXT, add_special_tokens=False).input_ids == ours.tokenizer.encode(TEXT).tolist()
    )
    assert ours.model.config.vocab_size == 320 > ours.tokenizer.vocab_size
    losses = [line["holdout_loss"] for line in evaluations(run)]
    assert losses[-1] < losses[0]
    assert not any("old_holdout_loss" in line for line in evaluations(run))


@pytest.mark.parametrize("keys", [{}, {"optimizer": "muon", "accumulation": 2}])
def test_cuts_do_not_show(keys, first, new_text, tmp_path):
    uncut = train(further(first, new_text, tmp_path / "uncut", {"dropout": 0.1}, **keys), []).run
    with pytest.raises(InterruptedRunError):
        request = further(first, new_text, tmp_path / "cut", {"dropout": 0.1}, **keys)
        train(request, [Cut(6)])
    resume(ResumeRequest(tmp_path / "cut"), [])
    assert_equal_runs(tmp_path / "cut", uncut)


def test_the_plan_is_for_a_trained_model(first, new_text, tmp_path):
    from minitx.config import DataConfig, TokenizerConfig
    from minitx.training.planning import TokenFigures, plan_run

    shape = {"n_layers": 2, "n_heads": 4, "d_model": 2 * TRAINED_WIDTH, "context_length": 64}
    given = {"optimizer": "adamw", "budget_seconds": 3600.0}
    plans = [
        plan_run(DataConfig(), TokenizerConfig("bpe", 300), TokenFigures(300, 1_000_000, 5_000),
                 1e12, shape, {**given, **more})[0].train
        for more in ({}, {"start": "x"})
    ]  # fmt: skip
    new, trained = plans
    assert trained.learning_rate == pytest.approx(new.learning_rate * TRAINED_RATE / 2)
    assert trained.muon_learning_rate == pytest.approx(new.muon_learning_rate * TRAINED_RATE / 2)
    assert trained.warmup_steps == 100 < trained.steps // 10
    assert new.warmup_steps == 20
    tokens = trained.steps * trained.batch_size * trained.accumulation * 64
    assert tokens == pytest.approx(TRAINED_EPOCHS * 1_000_000, rel=0.02)
    fixed, _ = plan_run(
        DataConfig(), TokenizerConfig("bpe", 300), TokenFigures(300, 1_000_000, 5_000), 1e12, shape,
        {**given, "start": "x", "learning_rate": 0.5},
    )  # fmt: skip
    assert fixed.train.learning_rate == 0.5
    # The rate of the matrices, which was not given, is that of a trained model all the same.
    assert fixed.train.muon_learning_rate == trained.muon_learning_rate


def test_a_shorter_context_keeps_the_first_positions(new_text, tmp_path):
    theirs = foreign_model("gpt2")
    save_foreign(tmp_path / "theirs", theirs)
    request = further(
        tmp_path / "theirs", new_text, tmp_path / "run", {"context_length": 16}, learning_rate=0.0
    )
    model = load_model(RunDirectory(train(request, []).run).checkpoint(12)).model
    assert model.config.context_length == 16
    assert model.positions.weight.equal(theirs.transformer.wpe.weight[:16])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"model": {"n_layers": 3}}, "n_layers is 3"),
        ({"model": {"context_length": 99}}, "knows 32 positions"),
        ({"tokenizer": {"kind": "char"}}, "has a tokenizer"),
        ({"model_file": "own.py"}, "each name a model"),
        ({"train": {"start": "nowhere"}}, "nowhere does not exist"),
    ],
)
def test_what_the_model_decides_is_refused(change, told, first, new_text, tmp_path):
    request = further(first, new_text, tmp_path / "run")
    change = {**change, **({"train": {**LENGTH, **change["train"]}} if "train" in change else {})}
    with pytest.raises(BadInputError, match=told):
        train(replace(request, **change), [])
    assert not (tmp_path / "run").exists()


def test_other_weights_than_noted_are_refused(first, new_text, tmp_path):
    with pytest.raises(BadInputError, match="are not those that the run began with"):
        train(further(first, new_text, tmp_path / "run", start_digest="0" * 64), [])


def test_on_the_command_line_it_is_from(first, new_text, tmp_path, minitx):
    done = minitx("train", new_text, "--from", first, "--steps", 4, "--out", tmp_path / "run",
                  "--threads", 1)  # fmt: skip
    assert done.code == 0, done.err
    assert "on its own holdout now" in " ".join(done.out.split())
    assert "old holdout loss" in done.out
    again = minitx("train", "--config", tmp_path / "run/run.toml", "--out", tmp_path / "again")
    assert again.code == 0, again.err
    for name in ("run", "again"):
        (tmp_path / name / "weights").write_bytes(
            (
                RunDirectory(tmp_path / name).usable_checkpoint("last") / "model.safetensors"
            ).read_bytes()
        )
    assert (tmp_path / "run/weights").read_bytes() == (tmp_path / "again/weights").read_bytes()
    done = minitx("eval", tmp_path / "run", "--holdout", "--quick", "--json")
    assert done.code == 0
    assert np.isfinite(json.loads(done.out)["reports"][0]["plain"]["loss"])
