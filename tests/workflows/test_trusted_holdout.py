"""What a run knows of its holdout: in the plan, in run.toml, in an evaluation and on the page."""

import hashlib
import json
import random
import shutil

import numpy as np
import pytest
from rich.console import Console
from small_runs import TINY_MODEL, TINY_TRAIN

from minitx.checkpoint.rundir import RunDirectory, resolve_checkpoint
from minitx.config import EvaluationSettings, ReportSettings
from minitx.corpus.audit import read_audit
from minitx.evaluation.scoring import token_losses, windows_for
from minitx.report.evaluation.holdout_report import holdout_report
from minitx.report.pages.run_page import run_page
from minitx.report.training.plan_view import plan_table
from minitx.training.observer import RunStart, TrainingObserver
from minitx.workflows.evaluate import evaluate_holdout, evaluate_targets
from minitx.workflows.load import open_checkpoint
from minitx.workflows.report import gather
from minitx.workflows.resume import ResumeRequest, resume
from minitx.workflows.train import TrainRequest, train

EVALUATION = EvaluationSettings(baselines=False)
MARKUP = "<b>&amp;<script>alert(1)</script>"


class Starts(TrainingObserver):
    def __init__(self):
        self.starts = []

    def on_start(self, start: RunStart):
        self.starts.append(start)


def words(seed, n):
    choose = random.Random(seed)
    return " ".join("".join(choose.choices("abcdefgh", k=4)) for _ in range(n))


def trained(directory, texts, **data):
    path = directory / "notes.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    seen = Starts()
    request = TrainRequest(
        data={"corpus": (str(path),), **data}, tokenizer={"kind": "char"}, model=TINY_MODEL,
        train={**TINY_TRAIN, "steps": 4}, out=directory / "run",
    )  # fmt: skip
    return train(request, [seen]).run, seen.starts[0]


@pytest.fixture(scope="module")
def leaky(tmp_path_factory):
    """A run in whose holdout are documents that the train part has with another end."""
    texts = [f"{MARKUP} {words(i, 40)}" for i in range(120)]
    texts += [f"{text} and so on" for text in texts[:40]]
    return trained(tmp_path_factory.mktemp("leaky"), texts)


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("clean"), [words(i, 40) for i in range(120)])


def shown(renderable):
    console = Console(width=80, color_system=None)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get()


def test_the_plan_and_run_toml_tell_what_is_in_both_parts(leaky):
    run, start = leaky
    found = read_audit(run / "data")
    config = RunDirectory(run).read_config()
    assert config.data.leaked == found.share > 0.02
    assert config.data.leaks == tuple(map(str, found.pairs))
    assert len(found.pairs) == 3
    text = shown(plan_table(start))
    assert f"{100 * found.share:.1f} % of the holdout also stands in the train part" in text
    for pair in found.pairs:
        assert (
            f"notes.jsonl:{pair.holdout.rsplit(':')[-1]}: {pair.share:.0%} in notes.jsonl:" in text
        )
    assert max(map(len, text.splitlines())) <= 80


def test_a_clean_holdout_takes_one_short_line(clean):
    run, start = clean
    config = RunDirectory(run).read_config()
    assert (config.data.leaked, config.data.leaks) == (0.0, ())
    lines = [line for line in shown(plan_table(start)).splitlines() if "holdout  " in line]
    assert lines[0].split("  ")[1:] != []
    assert "by hash, none in the train part" in lines[0]
    report = evaluate_holdout(resolve_checkpoint(run), EVALUATION)
    assert report.without_leaks is None


def test_an_evaluation_tells_documents_and_the_loss_without_leaks(leaky):
    run, _ = leaky
    checkpoint = resolve_checkpoint(run)
    report = evaluate_holdout(checkpoint, EVALUATION)
    loaded, found = open_checkpoint(checkpoint, "cpu"), read_audit(run / "data")
    # Each token by itself: a character is a token here, and so is an end.
    ids = np.fromfile(run / "data/holdout.ids", "<u2")
    losses = np.concatenate(
        [chunk.losses for chunk in token_losses(loaded.model, ids, windows_for(loaded.model))]
    )
    is_end = ids == loaded.tokenizer.end_id
    position = np.cumsum(~is_end) - 1
    document = np.cumsum(is_end) - is_end
    leaked = np.zeros(len(ids), bool)
    for start, end in found.leaked:
        leaked |= (position >= start) & (position < end)
    kept = ~leaked[1:]
    clean = report.without_leaks
    assert clean.tokens_scored == kept.sum() < report.plain.tokens_scored
    assert clean.loss == pytest.approx(losses[kept].mean(dtype=np.float64), rel=1e-6)
    n_bytes = (kept & ~is_end[1:]).sum()
    assert clean.bits_per_byte == pytest.approx(losses[kept].sum() / np.log(2) / n_bytes, rel=1e-5)
    assert clean.loss_interval.low < clean.loss < clean.loss_interval.high
    means = np.bincount(document[1:], losses) / np.bincount(document[1:])
    documents = report.documents
    assert documents.documents == len(means)
    assert documents.best[0].loss == pytest.approx(means.min(), rel=1e-6)
    assert documents.worst[0].loss == pytest.approx(means.max(), rel=1e-6)
    told = json.loads(json.dumps(report.to_json()))
    assert told["documents"]["worst"][0]["name"] == documents.worst[0].name
    assert told["without_leaks"]["tokens_scored"] == clean.tokens_scored
    text = "".join(map(shown, holdout_report(report, "ascii", 80)))
    assert "without leaks" in text
    assert "Loss by document" in text
    assert documents.worst[0].name.rsplit("/")[-1] in text
    assert "~" not in text.split("Loss by number")[0]


def test_a_file_of_documents_is_told_by_document_too(leaky, tmp_path):
    path = tmp_path / "other.jsonl"
    path.write_text("".join(json.dumps({"text": words(i, 30)}) + "\n" for i in range(7)))
    (report,) = evaluate_targets([leaky[0], path], False, "best", EVALUATION)
    assert report.documents.documents == 7
    assert report.documents.worst[0].name.startswith("other.jsonl:")
    assert report.without_leaks is None
    (tmp_path / "one.txt").write_text(words(3, 200))
    (report,) = evaluate_targets([leaky[0], tmp_path / "one.txt"], False, "best", EVALUATION)
    assert report.documents is None


def test_the_page_repeats_it_and_text_stays_text(leaky):
    run, _ = leaky
    found = read_audit(run / "data")
    page = run_page(gather([run], ReportSettings(eval=False, attn=False)))
    section = page.split('<section id="corpus"')[1].split("</section>")[0]
    assert f"{100 * found.share:.1f} % of the holdout also stands in the train part" in section
    assert "by hash" in section
    for pair in found.pairs:
        assert pair.holdout in section
    assert "&lt;script&gt;" in section
    assert "<script" not in section
    assert "<b>" not in section


def test_runs_that_noted_nothing_go_on(leaky, tmp_path):
    shutil.copytree(leaky[0], tmp_path / "run")
    run = tmp_path / "run"
    (run / "data/audit.json").unlink()
    *lines, _ = (run / "run.toml").read_text().splitlines(keepends=True)
    text = "".join(lines)
    noted = text[text.index("leaked = ") : text.index("]\n", text.index("leaks = [")) + 2]
    text = text.replace(noted, "")
    digest = hashlib.sha256(text.encode()).hexdigest()
    (run / "run.toml").write_text(f"{text}# sha256 of the lines above: {digest}\n")
    assert RunDirectory(run).read_config().data.leaked is None
    # The parts are compared when they are asked for.
    assert evaluate_holdout(resolve_checkpoint(run), EVALUATION).without_leaks is not None
    page = run_page(gather([run], ReportSettings(eval=False, attn=False)))
    assert (
        "also stands in the train part" not in page.split('id="corpus"')[1].split("</section>")[0]
    )
    seen = Starts()
    resume(ResumeRequest(run, {"steps": 6}), [seen])
    assert "by hash" in shown(plan_table(seen.starts[0]))


def test_a_changed_corpus_is_compared_anew(tmp_path):
    texts = [words(i, 40) for i in range(60)]
    run, start = trained(tmp_path, texts)
    assert start.config.data.leaked == 0.0
    path = tmp_path / "notes.jsonl"
    more = "".join(json.dumps({"text": f"{text} more"}) + "\n" for text in texts)
    path.write_text(path.read_text() + more)
    resume(ResumeRequest(run, {"steps": 6}, allow_changed_corpus=True), [])
    found = read_audit(run / "data")
    assert RunDirectory(run).read_config().data.leaked == found.share > 0.02
