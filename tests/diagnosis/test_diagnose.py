"""`minitx diagnose RUN`, as a person and as a program reads it."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from diagnosis import recipes
from safetensors.torch import load_file, save_file

from minitx.checkpoint.manifest import MANIFEST, manifest_bytes
from minitx.checkpoint.rundir import RunDirectory
from minitx.diagnosis.findings import KINDS, finding
from minitx.diagnosis.review import merged
from minitx.workflows.diagnose import diagnose


@pytest.fixture(scope="module")
def diverged(tmp_path_factory):
    run, _ = recipes.run_recipe(tmp_path_factory.mktemp("diverged"), **recipes.NOT_CLIPPED)
    return run


@pytest.fixture(scope="module")
def overflowed(tmp_path_factory):
    run, _ = recipes.run_recipe(tmp_path_factory.mktemp("overflowed"), **recipes.OVERFLOWING)
    return run


@pytest.fixture(scope="module")
def healthy(tmp_path_factory):
    run, _ = recipes.run_recipe(tmp_path_factory.mktemp("healthy"), **recipes.HEALTHY)
    return run


@pytest.fixture
def copied(healthy, tmp_path):
    """A healthy run, to be changed."""
    return shutil.copytree(healthy, tmp_path / "run")


def flat(text):
    """Without the line breaks that a narrow terminal needs."""
    return " ".join(text.split())


def add_line(run, **record):
    with run.joinpath("metrics.jsonl").open("a") as file:
        file.write(json.dumps(record) + "\n")


@pytest.mark.parametrize("columns", [60, 80, 200])
@pytest.mark.parametrize("run", ["diverged", "overflowed"])
def test_each_finding_says_all_four(run, columns, minitx, request, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    done = minitx("diagnose", request.getfixturevalue(run))
    assert done.code == 0
    assert re.fullmatch(r"run \S+, step \d.*\n|", done.err)
    assert max(map(len, done.out.splitlines())) <= columns
    out = flat(done.out)
    events = recipes.events(request.getfixturevalue(run))
    assert events
    for name, event in events.items():
        assert f"{event['severity']} {name} at step {event['step']}" in out
        for label, words in (
            ("evidence", event["message"]), ("likely cause", event["cause"]), ("try", event["fix"]),
        ):  # fmt: skip
            assert f"{label} {flat(words)}" in out
    assert f"{len(events)} finding" in out
    assert "watched for" not in out


def test_errors_come_first(diverged):
    found = [seen.finding.severity for seen in diagnose(diverged).findings]
    assert found == sorted(found)
    assert {"error", "warning"} == set(found)


def test_json_says_the_same(diverged, minitx):
    done = minitx("diagnose", diverged, "--json")
    told = json.loads(done.out)
    assert done.out.count("\n") == 1
    assert {one["name"] for one in told["findings"]} == set(recipes.events(diverged))
    for one in told["findings"]:
        event = recipes.events(diverged)[one["name"]]
        keys = ("severity", "step", "cause", "fix")
        assert [one[key] for key in keys] == [event[key] for key in keys]
        assert one["evidence"] == event["message"]
    assert told["watched"] == sorted(KINDS.names())
    assert told["run"] == str(diverged)
    assert told["checkpoint"].endswith("step-000060")


def test_healthy_run_says_what_was_watched(healthy, minitx):
    done = minitx("diagnose", healthy)
    out = flat(done.out)
    assert "no problems found" in out
    assert f"watched for {', '.join(sorted(KINDS.names()))}" in out
    for looked_at in (
        "metrics 41 logged steps, to step 400",
        "evaluations 20",
        "alarms 0 while it trained",
        "gradients norm by layer at step 400:",
        "updates to weights by layer:",
        "checkpoint step 400",
        "weights all are finite",
        "tokenizer the one that encoded the corpus",
        "mask none of",
        "attention entropy of heads",
        "bigram counting which token follows which reaches",
    ):
        assert looked_at in out, looked_at


def test_newest_run_is_the_default(copied, minitx, inside):
    shutil.copytree(copied, inside / "runs" / "a-001")
    assert "runs/a-001" in minitx("diagnose").out


def test_a_checkpoint_of_the_run_names_it(healthy):
    checkpoint = RunDirectory(healthy).checkpoint(400)
    assert diagnose(checkpoint).run == healthy


@pytest.mark.parametrize("quick", ["--quick", "--no-baselines"])
def test_an_evaluation_judges_the_fit_alike(healthy, minitx, quick):
    fit = diagnose(healthy).checks["fit"]
    printed = minitx("eval", healthy, "--holdout", "--checkpoint", "last", quick, "--json")
    verdict = json.loads(printed.out)["reports"][0]["verdict"]
    assert f"{verdict['fit']}: {verdict['reason']}" == fit


@pytest.mark.parametrize(
    ("name", "told"),
    [("nothing", "does not exist"), ("text.txt", "is a file"), ("empty", "is not a run directory")],
)
def test_what_is_no_run_is_refused(name, told, minitx, inside):
    (inside / "text.txt").write_text("text")
    (inside / "empty").mkdir()
    done = minitx("diagnose", name)
    assert done.code == 2
    assert done.err.count("\n") == 1
    assert name in done.err
    assert told in done.err


def test_nothing_is_changed(copied, minitx):
    def content():
        return {p: p.read_bytes() for p in sorted(copied.rglob("*")) if p.is_file()}

    before = content()
    minitx("diagnose", copied)
    assert content() == before


def test_broken_weight_is_named(copied):
    checkpoint = RunDirectory(copied).checkpoint(400)
    path = checkpoint / "model.safetensors"
    tensors = load_file(path)
    name = sorted(tensors)[1]
    tensors[name].view(-1)[3] = torch.nan
    save_file(tensors, path)
    (checkpoint / MANIFEST).unlink()
    (checkpoint / MANIFEST).write_bytes(manifest_bytes(checkpoint, 400))
    (seen,) = diagnose(copied).findings
    assert seen.finding.name == "not-a-number"
    assert "(1 of " in seen.finding.message
    assert "of the checkpoint" in seen.finding.message


def test_without_a_usable_checkpoint_the_metrics_are_looked_at(copied):
    for checkpoint in copied.glob("checkpoints/step-*"):
        (checkpoint / "model.safetensors").write_bytes(b"damaged")
    add_line(copied, kind="step", step=401, loss=float("nan"), gradient_norm=1.0, learning_rate=0.1)
    result = diagnose(copied)
    assert [seen.finding.name for seen in result.findings] == ["not-a-number"]
    assert result.checkpoint is None
    assert "can't be looked at" in result.checks["checkpoint"]


def test_without_metrics_the_checkpoint_is_looked_at(copied, minitx):
    (copied / "metrics.jsonl").unlink()
    done = minitx("diagnose", copied)
    assert "metrics there are none" in flat(done.out)
    assert "checkpoint step 400" in flat(done.out)


def test_with_neither_it_is_refused(copied, minitx):
    (copied / "metrics.jsonl").unlink()
    shutil.rmtree(copied / "checkpoints")
    done = minitx("diagnose", copied)
    assert done.code == 2
    assert "has nothing to look at" in done.err


def test_lines_of_another_version_are_passed_over(copied):
    for line in (
        {"kind": "step", "step": 401},
        {"kind": "step", "step": 401, "loss": "high", "gradient_norm": 1, "learning_rate": 1},
        {"kind": "event", "step": 401},
        {"kind": "event", "step": 401, "name": "of-tomorrow"},
        {"kind": "health", "step": 401, "gradient_norms": 3, "update_ratios": {}},
        {"kind": "health", "step": 401, "gradient_norms": {}, "update_ratios": {}},
        {"kind": "evaluation", "step": 401, "train_loss": None, "holdout_loss": 1},
        {"kind": "of-tomorrow", "step": 401},
    ):
        add_line(copied, **line)
    with (copied / "metrics.jsonl").open("ab") as file:
        file.write(b'{"kind": "st')
    assert diagnose(copied).findings == ()


def test_words_of_the_metrics_do_not_reach_the_terminal_as_commands(copied, minitx):
    add_line(
        copied, kind="event", step=401, name="loss-spike", severity="warning",
        message="\x1b[2J\x1b]0;title\x07wiped", cause="\x9b31m", fix="a\rb",
    )  # fmt: skip
    done = minitx("diagnose", copied)
    assert "wiped" in done.out
    assert not set(done.out) & {"\x1b", "\x07", "\x9b", "\r"}


def test_repeated_trouble_is_told_once_with_its_number(copied, minitx):
    for step in (401, 450, 490):
        add_line(
            copied, kind="event", step=step, name="loss-spike", severity="warning",
            message=f"at {step}", cause="batch", fix="look",
        )  # fmt: skip
    add_line(copied, kind="event", step=490, name="rollback", severity="warning", message="back")
    out = flat(minitx("diagnose", copied).out)
    assert "warning loss-spike at step 401, and 3 times in all, to step 490" in out
    assert "rollbacks 1, the last at step 490" in out


def test_the_page_has_every_name_and_no_other():
    page = (Path(__file__).parents[2] / "docs/diagnosis.md").read_text()
    assert re.findall(r"^\| `([a-z-]+)` \| ", page, re.MULTILINE) == sorted(KINDS.names())


def test_losses_of_a_part_of_the_holdout_say_so(copied, monkeypatch):
    whole = diagnose(copied).checks["holdout"]
    assert re.match(r"loss \S+ nats, \S+ on as much of the train part; ", whole)
    monkeypatch.setattr("minitx.diagnosis.review._SCORED_TOKENS", 100)
    part = diagnose(copied).checks["holdout"]
    assert re.match(r"loss \S+ nats on the first 100 of [\d,]+ tokens, \S+ on as much of", part)


def test_a_foreign_holdout_explains_a_loss_that_rises_there():
    foreign, overfitted, spike = (
        finding(name, 3, "seen") for name in ("mismatched-tokenizer", "overfitting", "loss-spike")
    )
    for told, others in (([foreign], [overfitted]), ([], [overfitted, foreign])):
        names = [seen.finding.name for seen in merged(told, [*others, spike])]
        assert names == ["mismatched-tokenizer", "loss-spike"]
    assert [seen.finding for seen in merged([overfitted], [])] == [overfitted]
