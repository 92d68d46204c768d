"""The film of a run on disk: the run is the same with it, it survives cuts, and is shown."""

import json
import signal
from dataclasses import replace

import numpy as np
import pytest
from equal_runs import Cut, assert_equal_runs
from small_runs import TINY_MODEL, TINY_TRAIN

from minitx.errors import BadInputError, InterruptedRunError
from minitx.inspection import film_recorder
from minitx.inspection.film import read_film
from minitx.workflows.resume import ResumeRequest, resume
from minitx.workflows.train import TrainRequest, train


@pytest.fixture(scope="module", autouse=True)
def all_moments():
    """So small a run has no film of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(film_recorder, "SHARE", 1e9)
        yield


def request(verses, out, dropout=0.2, **train_keys):
    return TrainRequest(
        data={"corpus": (str(verses),)},
        model={**TINY_MODEL, "dropout": dropout},
        train={**TINY_TRAIN, "log_every": 1, **train_keys},
        out=out,
    )


@pytest.fixture(scope="module")
def filmed(tmp_path_factory, verses):
    return train(request(verses, tmp_path_factory.mktemp("filmed") / "run"), []).run


def test_a_run_is_the_same_with_its_film_to_the_bit(filmed, verses, tmp_path):
    without = train(request(verses, tmp_path / "run", film=False), []).run
    assert not (without / "film.jsonl").exists()
    assert_equal_runs(filmed, without)
    moments = read_film(filmed / "film.jsonl").moments
    assert len(moments) > 20
    assert (moments[0].step, moments[-1].step) == (0, 30)


def test_a_film_does_not_know_of_a_cut(filmed, verses, tmp_path):
    """Neither of a signal, nor of a kill after which later and torn lines are left."""
    cut = tmp_path / "cut"
    with pytest.raises(InterruptedRunError):
        train(request(verses, cut), [Cut(14, number=signal.SIGTERM)])
    before = (cut / "film.jsonl").read_bytes()
    later = [json.loads(line) for line in (filmed / "film.jsonl").read_bytes().splitlines()]
    extra = [json.dumps(line | {"sample": "stale"}) for line in later if line["step"] in (15, 16)]
    (cut / "film.jsonl").write_bytes(before + "\n".join([*extra, '{"kind": "mom']).encode())
    resume(ResumeRequest(cut), [])
    assert (cut / "film.jsonl").read_bytes() == (filmed / "film.jsonl").read_bytes()


def test_a_run_that_ends_early_has_a_last_moment(verses, tmp_path, monkeypatch):
    monkeypatch.setattr(film_recorder, "is_moment", lambda step, planned, count: step == 0)
    keys = {"early_stopping": 1, "learning_rate": 0.0, "muon_learning_rate": 0.0}
    done = train(request(verses, tmp_path / "run", **keys), [])
    assert done.end.reason == "early-stopping"
    moments = read_film(done.run / "film.jsonl").moments
    assert [moment.step for moment in moments] == [0, done.end.step]


def test_a_film_that_is_no_file_refuses_to_resume_and_changes_nothing(verses, tmp_path):
    run = train(request(verses, tmp_path / "run", steps=4), []).run
    (run / "film.jsonl").unlink()
    (run / "film.jsonl").mkdir()
    metrics = (run / "metrics.jsonl").read_bytes()
    with pytest.raises(BadInputError, match=r"film\.jsonl is not a plain file"):
        resume(ResumeRequest(run, train={"steps": 8}), [])
    assert (run / "metrics.jsonl").read_bytes() == metrics
    (run / "film.jsonl").rmdir()
    resume(ResumeRequest(run, train={"steps": 8}), [])
    assert [moment.step for moment in read_film(run / "film.jsonl").moments] == [5, 6, 7, 8]


@pytest.mark.parametrize("asked", [("--layer", 9), ("--head", 2)])
@pytest.mark.parametrize("kind", ["--film", "--film --json"])
def test_a_head_that_is_not_there_is_refused(filmed, minitx, asked, kind):
    done = minitx("attn", filmed, *kind.split(), *asked)
    assert (done.code, done.out) == (2, "")
    assert f"{asked[0].strip('-')} {asked[1]} does not exist" in done.err


def test_a_short_run_has_no_film_and_says_so(minitx, verses, tmp_path, monkeypatch):
    monkeypatch.setattr(film_recorder, "SHARE", 0.01)
    run = train(request(verses, tmp_path / "run", steps=4), []).run
    assert read_film(run / "film.jsonl") is None
    done = minitx("attn", run, "--film")
    assert done.code == 2
    assert "has no film" in done.err
    assert "Train without --no-film and --shard" in done.err
    assert done.err.count("\n") == 1


def test_attn_shows_the_film(minitx, filmed, tmp_path):
    done = minitx("attn", filmed, "--film", "--ascii")
    assert done.code == 0
    assert done.out.replace("─", "").isascii()  # The line below a header.
    assert max(map(len, done.out.splitlines())) <= 80
    for words in (
        "Role of each head",
        "Loss by class of token",
        "Logit lens after token",
        "step 30",
    ):
        assert words in done.out
    one = minitx("attn", filmed, "--film", "--moment", "11", "--layer", "1", "--head", "0")
    assert "Attention of layer 1, head 0, at step 11" in one.out
    told = json.loads(minitx("attn", filmed, "--film", "--json", "--layer", "1", "--head", "0").out)
    film = read_film(filmed / "film.jsonl")
    assert [each["step"] for each in told["film"]["moments"]] == [m.step for m in film.moments]
    assert (told["film"]["layer"], told["film"]["head"]) == (1, 0)
    last = told["film"]["moments"][-1]
    assert np.abs(np.array(last["map"]) - film.moments[-1].map(1, 0)).max() <= 1e-6
    assert "maps" not in last
    assert last["classes"] == film.moments[-1].classes
    pytest.importorskip("matplotlib")
    assert minitx("attn", filmed, "--film", "--png", tmp_path / "film.png").code == 0
    assert (tmp_path / "film.png").read_bytes()[:4] == b"\x89PNG"


def test_a_moment_is_one_of_a_film(minitx, filmed):
    done = minitx("attn", filmed, "--moment", "3")
    assert done.code == 2
    assert "Give --film too" in done.err


def test_a_film_is_text_and_no_markup(minitx, filmed, tmp_path):
    from rich.console import Console

    from minitx.config import AttentionRequest
    from minitx.report.attention.film_view import film_parts

    film = read_film(filmed / "film.jsonl")
    odd = ("[red]", "\x1b[31m", "</script>")
    moment = film.moments[-1]
    tokens = (*odd, *moment.tokens[3:])
    film = replace(film, moments=(replace(moment, tokens=tokens, sample="[b]\x1b[0m"),))
    console = Console(record=True, width=80, file=(tmp_path / "out").open("w"))
    for part in film_parts(film, AttentionRequest(film=True), "blocks", 80):
        console.print(part, markup=False)
    shown = console.export_text()
    assert "[red]" in shown
    assert "[b]" in shown
    assert "\x1b" not in shown
