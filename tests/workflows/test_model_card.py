"""A checkpoint's README: facts of its run, no path, and nothing that stops a resume."""

import json
import math
import re
import shlex

import pytest
from small_runs import TINY_MODEL, TINY_TRAIN, VERSES

from minitx.corpus import load_encoded
from minitx.evaluation.scoring import score
from minitx.workflows.load import load
from minitx.workflows.train import TrainRequest, train


def card_of(run, step):
    return (run / f"checkpoints/step-{step:06d}/README.md").read_text(encoding="utf-8")


def row(card, name):
    (line,) = [line for line in card.splitlines() if line.startswith(f"| {name} |")]
    return [cell.strip() for cell in line.split("|")[2:-1]]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One whose holdout is long enough for an interval."""
    from pydoc_data import topics

    place = tmp_path_factory.mktemp("card")
    (place / "topics.txt").write_text("".join(topics.topics.values())[:60_000], encoding="utf-8")
    request = TrainRequest(
        data={"corpus": (str(place / "topics.txt"),)}, model=TINY_MODEL,
        train={**TINY_TRAIN, "steps": 20}, out=place / "runs/topics-001",
    )  # fmt: skip
    return train(request, []).run


def test_it_tells_what_was_measured(run):
    card = card_of(run, 20)
    model = load(run, "last")
    corpus = load_encoded(run / "data")
    scored = score(model.model, corpus.holdout_ids)
    loss, interval = row(card, "loss, nats a token")
    assert float(loss) == pytest.approx(scored.loss, rel=1e-3)
    low, high = map(float, interval.split(" to "))
    assert low < scored.loss < high
    assert f"On {len(corpus.holdout_ids) - 1:,} tokens of the holdout, after step 20:" in card
    bits = float(row(card, "bits per byte")[0])
    n_bytes = len((run / "data/holdout.txt").read_bytes()) - 1
    assert bits == pytest.approx(scored.total_nats / math.log(2) / n_bytes, rel=1e-3)
    assert f"`{corpus.digest}`" in row(card, "SHA-256 of the corpus")[0]
    assert row(card, "steps")[0].startswith("20 of 20, with 2,560 tokens: 0.05 passes")


def test_the_interval_is_that_of_eval(minitx, run, tiny_run):
    measured = json.loads(minitx("eval", run, "--holdout", "--quick", "--json").out)
    interval = measured["reports"][0]["plain"]["loss_interval"]
    told = [float(x) for x in row(card_of(run, 20), "loss, nats a token")[1].split(" to ")]
    assert told[1] - told[0] == pytest.approx(interval["high"] - interval["low"], rel=0.3)
    # Of few blocks it would be far too narrow.
    assert row(card_of(tiny_run, 120), "loss, nats a token")[1] == "unknown"


def test_the_hub_reads_the_block_at_the_top(tiny_run):
    hub = pytest.importorskip("huggingface_hub")
    data = hub.ModelCard(card_of(tiny_run, 120)).data
    assert (data.library_name, data.license) == ("transformers", None)
    kinds = {result.metric_type: result.metric_value for result in data.eval_results}
    assert kinds.keys() == {"loss", "bits_per_byte"}
    assert data.eval_results[0].dataset_name == "holdout of verses.txt"


def test_it_holds_no_path(tiny_run, tiny_gpt2_run):
    for run, step in ((tiny_run, 120), (tiny_gpt2_run, 40)):
        card = card_of(run, step)
        assert "verses.txt" in card
        assert not re.search(r"(^|[\s`\"])(/|[A-Za-z]:\\)\w", card)
        assert str(run.parent) not in card


def test_names_of_files_stay_in_their_line(inside):
    name = "a`|\n<b>#.txt"
    (inside / name).write_text(VERSES)
    run = train(TrainRequest(data={"corpus": (name,)}, train={"steps": 2, "threads": 1},
                             model={"n_layers": 1, "d_model": 8}), []).run  # fmt: skip
    assert row(card_of(run, 2), "corpus") == ["`a????b??.txt`"]


def test_before_anything_is_scored(inside, verses):
    request = TrainRequest(
        data={"corpus": (str(verses),), "holdout_fraction": 0.0}, train={"steps": 2, "threads": 1},
        model={"n_layers": 1, "d_model": 8},
    )  # fmt: skip
    card = card_of(train(request, []).run, 2)
    assert "## Measured\n\nNothing yet.\n" in card
    assert "model-index" not in card


def test_its_command_makes_the_model_again(minitx, inside, tiny_run, verses):
    checkpoint = tiny_run / "checkpoints/step-000120"
    (command,) = re.findall(r"^    (minitx train .*)$", card_of(tiny_run, 120), re.MULTILINE)
    (inside / "run_copy.toml").write_bytes((checkpoint / "run_copy.toml").read_bytes())
    (inside / "verses.txt").write_bytes(verses.read_bytes())
    words = shlex.split(command.replace("CORPUS", "verses.txt"))[1:]
    assert minitx(*words).code == 0
    again = inside / "runs/verses-001"
    weights = "checkpoints/step-000120/model.safetensors"
    assert (again / weights).read_bytes() == (tiny_run / weights).read_bytes()
    assert card_of(again, 120).replace("# verses-001", "") == card_of(tiny_run, 120).replace(
        "# verses-001", ""
    )


def test_what_a_person_adds_stops_no_resume(minitx, inside, verses):
    request = TrainRequest(
        data={"corpus": (str(verses),)}, train={**TINY_TRAIN, "steps": 10},
        model={"n_layers": 1, "d_model": 8},
    )  # fmt: skip
    run = train(request, []).run
    path = run / "checkpoints/step-000010/README.md"
    path.write_text(path.read_text().replace("tags: [minitx]", "tags: [minitx]\nlicense: mit"))
    assert minitx("resume", run, "--steps", 20).code == 0
    # Between evaluations, what was measured last is told with its step.
    assert "after step 20:" in card_of(run, 20)
