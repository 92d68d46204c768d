"""What `minitx corpus` counts is what stands in the files."""

import io
import json
from collections import Counter

import numpy as np
import pytest
from small_runs import TINY_MODEL, TINY_TRAIN

from minitx.config import DataConfig
from minitx.corpus import load_encoded
from minitx.errors import BadInputError
from minitx.tokenizer.base import END_OF_TEXT
from minitx.workflows.corpus import study_corpus
from minitx.workflows.train import TrainRequest, train

TEXTS = [f"Note {i}: {'Zeile, größer ' * (i % 7)}日本{i * i}\n" for i in range(90)]


@pytest.fixture
def notes(inside):
    (inside / "notes.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in TEXTS))
    return inside


def test_sizes_are_those_of_the_texts(notes):
    study = study_corpus(DataConfig(("notes.jsonl",)), {})
    parts = study.parts.values()
    text = "".join(TEXTS)
    assert sum(part.documents for part in parts) == len(TEXTS)
    assert sum(part.bytes for part in parts) == len(text.encode())
    assert sum(part.characters for part in parts) == len(text)
    lengths = sorted(map(len, TEXTS))
    assert (
        list(study.lengths.values())
        == np.quantile(lengths, [0, 0.1, 0.5, 0.9, 1], method="nearest").tolist()
    )
    assert study.formats == {"jsonl": 1}
    assert study.distinct == len(set(text))
    letters = [c for c in text if c.isalpha()]
    assert study.classes["letters"] == pytest.approx(len(letters) / len(text))
    assert sum(study.classes.values()) == pytest.approx(1)
    assert study.scripts["Han"] == pytest.approx(Counter(text)["日"] * 2 / len(letters))
    assert study.duplicates == 0


def test_each_stage_says_how_far_it_is(notes):
    told = []
    study = study_corpus(DataConfig(("notes.jsonl",)), {}, progress=lambda *how: told.append(how))
    text, train = (sum(part.bytes for part in study.parts.values()), study.parts["train"].bytes)
    totals = {
        "reading the corpus": (notes / "notes.jsonl").stat().st_size, "counting characters": text,
        "encoding the corpus": text, "comparing the holdout with the train part": train,
    }  # fmt: skip
    for stage, total in totals.items():
        assert (stage, total, total) in told
    assert [stage for stage, done, _ in told if not done].count("training the tokenizer") == 1


@pytest.mark.parametrize("kind", ["char", "bpe", "word"])
def test_parts_and_tokens_are_those_of_a_training(notes, kind):
    study = study_corpus(DataConfig(("notes.jsonl",)), {"kind": kind})
    request = TrainRequest(
        data={"corpus": ("notes.jsonl",)}, tokenizer={"kind": kind}, model=TINY_MODEL,
        train={**TINY_TRAIN, "steps": 1}, out=notes / "run",
    )  # fmt: skip
    encoded = load_encoded(train(request, []).run / "data")
    for part in ("train", "holdout"):
        own, counted = getattr(encoded, part), study.parts[part]
        assert (counted.tokens, counted.bytes) == (own.tokens, own.bytes)
    noted = json.loads((encoded.directory / "corpus.json").read_text())
    assert noted["formats"] == [["jsonl", 1]]


def test_documents_are_shown_as_the_model_sees_them(notes):
    study = study_corpus(DataConfig(("notes.jsonl",)), {"kind": "bpe"})
    for name, pieces in study.shown:
        text = TEXTS[int(name.rpartition(":")[2]) - 1]
        shown = "".join(pieces)
        if pieces[-1] == END_OF_TEXT:
            assert shown == text + END_OF_TEXT
        else:
            assert len(pieces) == 40
    assert any(pieces[-1] == END_OF_TEXT for _, pieces in study.shown)


def test_one_text_is_cut_inside_no_character_and_has_no_end(inside):
    (inside / "text.txt").write_text("x" + "日本" * 3000)
    study = study_corpus(DataConfig(("text.txt",)), {})
    ((name, pieces),) = study.shown
    assert name == "text.txt"
    assert "".join(pieces) == ("x" + "日本" * 20)[:40]


def test_a_pipe_is_read_once(inside):
    data = io.BytesIO("".join(json.dumps({"text": t}) + "\n" for t in TEXTS).encode())
    study = study_corpus(DataConfig(("-",)), {}, data)
    assert sum(part.documents for part in study.parts.values()) == len(TEXTS)
    assert study.name == "stdin"


def test_without_a_holdout_nothing_is_compared(notes):
    study = study_corpus(DataConfig(("notes.jsonl",), holdout_fraction=0.0), {})
    assert study.audit is None
    assert study.parts["holdout"].documents == 0


def test_a_file_that_is_held_out_is_its_own_part(notes):
    (notes / "held.txt").write_text("Something else, of its own.\n" * 4)
    study = study_corpus(DataConfig(("notes.jsonl",), split="held.txt"), {})
    assert study.split == "held.txt"
    assert study.parts["train"].documents == len(TEXTS)
    assert study.parts["holdout"].documents == 1


def test_nothing_is_left_behind(notes, monkeypatch, tmp_path_factory):
    place = tmp_path_factory.mktemp("temporary")
    monkeypatch.setattr("tempfile.tempdir", str(place))
    study_corpus(DataConfig(("notes.jsonl",)), {})
    (notes / "empty.txt").write_text(" \n")
    with pytest.raises(BadInputError, match="no text in it"):
        study_corpus(DataConfig(("empty.txt",)), {})
    assert not list(place.iterdir())
