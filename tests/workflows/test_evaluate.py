"""Measuring runs against each other, and what can't be measured."""

import os
import shutil
from pathlib import Path

import pytest

from minitx.checkpoint.rundir import resolve_checkpoint
from minitx.errors import BadInputError, DamagedFileError
from minitx.training.logging.metrics_file import metrics_line
from minitx.workflows.evaluate import (
    EvaluationSettings,
    compare_checkpoints,
    evaluate_holdout,
    evaluate_targets,
)
from minitx.workflows.train import TrainRequest, train

PLAIN = EvaluationSettings(baselines=False, quick=True)


@pytest.fixture(scope="module")
def word_run(tmp_path_factory, verses):
    from small_runs import TINY_MODEL, TINY_TRAIN

    request = TrainRequest(
        data={"corpus": (str(verses),)},
        tokenizer={"kind": "word", "vocab_size": 40},
        model=TINY_MODEL,
        train={**TINY_TRAIN, "steps": 10},
        out=tmp_path_factory.mktemp("word") / "run",
    )
    return train(request, []).run


def evaluate_file(checkpoint, source, settings):
    (report,) = evaluate_targets([checkpoint, Path(source)], False, "best", settings)
    return report


@pytest.fixture
def copied(tmp_path, tiny_run):
    shutil.copytree(tiny_run, tmp_path / "run")
    return tmp_path / "run"


def test_the_steps_are_told_in_order(tiny_run):
    told = []
    report = evaluate_holdout(
        resolve_checkpoint(tiny_run), EvaluationSettings(), lambda *one: told.append(one)
    )
    names = list(dict.fromkeys(name for name, _, _ in told))
    assert names[0] == "counting tokens"
    assert any(name.startswith("scoring holdout, stride") for name in names)
    assert names[-1] == "drawing samples"
    scored = [(done, total) for name, done, total in told if name == "scoring holdout"]
    assert scored[0][0] == 0
    assert scored[-1][0] == scored[-1][1] == report.plain.tokens_scored


def test_a_model_that_counting_beats_is_underfitted(word_run):
    report = evaluate_holdout(resolve_checkpoint(word_run), EvaluationSettings())
    best = min(one.bits_per_byte for one in report.baselines.ngrams)
    assert best < report.baselines.model_bits_per_byte
    assert report.verdict.fit == "underfitted"
    assert "grams does better" in report.verdict.reason


def test_a_holdout_loss_that_rose_makes_the_verdict(copied):
    checkpoint = resolve_checkpoint(copied)
    settings = EvaluationSettings(baselines=False)
    before = evaluate_holdout(checkpoint, settings).verdict
    lines = [{"kind": "evaluation", "step": step, "holdout_loss": loss}
             for step, loss in ((1, 0.001), (2, 9.0))]  # fmt: skip
    (copied / "metrics.jsonl").write_bytes(b"".join(map(metrics_line, lines)))
    after = evaluate_holdout(checkpoint, settings).verdict
    assert after.fit == "overfitted"
    assert "0.001, at step 1" in after.reason
    (copied / "metrics.jsonl").unlink()
    without = evaluate_holdout(checkpoint, settings).verdict
    assert "at step" not in without.reason
    assert without.gap == before.gap


def test_better_training_is_told_from_chance(tmp_path, verses, tiny_run):
    from small_runs import TINY_MODEL, TINY_TRAIN

    request = TrainRequest(data={"corpus": (str(verses),)}, model=TINY_MODEL,
                           train={**TINY_TRAIN, "steps": 10}, out=tmp_path / "short")  # fmt: skip
    short = train(request, []).run
    both = [resolve_checkpoint(short), resolve_checkpoint(tiny_run)]
    report = compare_checkpoints(both, str(verses), PLAIN)
    (test,) = report.tests
    assert test.comparison.is_significant
    assert test.comparison.difference < 0
    gain = report.reports[1].plain.bits_per_byte - report.reports[0].plain.bits_per_byte
    assert test.comparison.difference == pytest.approx(gain, abs=0.02)
    found = report.to_json()
    assert found["kind"] == "comparison"
    assert len(found["reports"]) == 2


def test_models_of_other_tokenizers_are_compared_by_bytes(tiny_run, tiny_gpt2_run, verses):
    both = [resolve_checkpoint(tiny_run), resolve_checkpoint(tiny_gpt2_run)]
    report = compare_checkpoints(both, str(verses), PLAIN)
    first, second = (one.plain.bits_per_byte for one in report.reports)
    assert report.tests[0].comparison.difference == pytest.approx(second - first, abs=0.02)
    assert {one.text.bytes for one in report.reports} == {verses.stat().st_size}
    with pytest.raises(BadInputError, match="different parts of the text"):
        compare_checkpoints(both, str(verses), EvaluationSettings(quick=True, max_tokens=100))


def test_runs_with_different_holdouts_are_not_compared(tiny_run, copied):
    with (copied / "data/holdout.txt").open("a") as file:
        file.write("x")
    with pytest.raises((BadInputError, DamagedFileError)):
        compare_checkpoints([resolve_checkpoint(tiny_run), resolve_checkpoint(copied)], None, PLAIN)


def test_data_of_another_tokenizer_is_refused(tiny_gpt2_run, copied):
    shutil.rmtree(copied / "data")
    shutil.copytree(tiny_gpt2_run / "data", copied / "data")
    with pytest.raises(DamagedFileError, match="another tokenizer"):
        evaluate_holdout(resolve_checkpoint(copied), PLAIN)


def test_a_model_alone_is_measured_on_a_file_without_a_train_part(tmp_path, tiny_run, verses):
    alone = tmp_path / "alone"
    shutil.copytree(resolve_checkpoint(tiny_run), alone)
    (alone / "manifest.json").unlink()
    report = evaluate_file(alone, str(verses), EvaluationSettings())
    assert report.baselines.train_tokens == 0
    assert [one.order for one in report.baselines.ngrams] == [0]
    assert report.train_loss is report.verdict is report.samples is None
    assert report.frequencies == ()


def test_unknown_words_are_scored_and_counted(word_run, tmp_path):
    text = tmp_path / "other.txt"
    text.write_text("green bottles hanging on the zebra, zebra, zebra\n" * 8)
    report = evaluate_file(resolve_checkpoint(word_run), str(text), EvaluationSettings())
    assert report.text.unknown_tokens >= 24
    assert 0 < report.text.unknown_rate < 1


def test_a_text_of_one_token_is_refused(tmp_path, tiny_run):
    (tmp_path / "one.txt").write_text("g")
    with pytest.raises(BadInputError, match="1 token long"):
        evaluate_file(resolve_checkpoint(tiny_run), str(tmp_path / "one.txt"), PLAIN)


def test_a_stride_of_the_context_has_no_second_figure(tiny_run):
    checkpoint = resolve_checkpoint(tiny_run)
    settings = EvaluationSettings(context_length=16, stride=16, baselines=False)
    assert evaluate_holdout(checkpoint, settings).strided is None
    quick = EvaluationSettings(context_length=16, stride=4, quick=True)
    assert evaluate_holdout(checkpoint, quick).strided.stride == 4


def test_only_the_beginning_of_a_large_text_has_baselines(tiny_run, verses, monkeypatch):
    monkeypatch.setattr("minitx.workflows.evaluate.MOST_BYTES", 1_000)
    report = evaluate_file(resolve_checkpoint(tiny_run), str(verses), EvaluationSettings())
    assert report.baselines.text_bytes <= 1_000
    assert report.baselines.tokens <= 1_000 < report.plain.tokens_scored


def test_a_pipe_is_not_waited_for_a_second_time(tmp_path, tiny_run):
    os.mkfifo(tmp_path / "pipe")
    checkpoint = resolve_checkpoint(tiny_run)
    with pytest.raises(BadInputError, match="is a pipe, and can be read only once"):
        compare_checkpoints([checkpoint, checkpoint], str(tmp_path / "pipe"), PLAIN)
