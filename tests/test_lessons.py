"""What the lessons claim beyond the words that they show."""

import ast
import importlib
import re
import sys

import pytest
from documented import ROOT

LESSONS = ROOT / "docs/learn"
PLACE = re.compile(r"`([\w/]+\.py)(?::\s+([\w.]+))?`")


@pytest.fixture
def example(monkeypatch):
    """Import a lesson's script."""

    def load(name):
        monkeypatch.syspath_prepend(str(ROOT / "examples"))
        monkeypatch.delitem(sys.modules, name, raising=False)
        return importlib.import_module(name)

    return load


def names_of(node):
    targets = getattr(node, "targets", [getattr(node, "target", node)])
    return [getattr(target, "id", getattr(target, "name", None)) for target in targets]


def is_there(path, name):
    body = ast.parse((ROOT / "src/minitx" / path).read_text()).body
    for part in name.split("."):
        found = [node for node in body if part in names_of(node)]
        if not found:
            return False
        body = getattr(found[0], "body", [])
    return True


def test_each_answer_names_a_place_that_is_there():
    page = (LESSONS / "questions.md").read_text()
    places = PLACE.findall(page)
    assert len(places) > 30
    for path, name in places:
        assert (ROOT / "src/minitx" / path).is_file(), path
        assert not name or is_there(path, name), f"{path}: {name}"
    assert not is_there("model/kv_cache.py", "no_such_thing")
    assert not is_there("model/transformer.py", "Transformer.no_such_thing")


def test_each_question_has_an_answer_and_a_place_or_a_lesson():
    page = (LESSONS / "questions.md").read_text()
    answers = re.findall(r"^\*\*([^*]+\?)\*\*(.*?)(?=^\*\*|^## |\Z)", page, re.M | re.S)
    assert len(answers) > 40
    for question, answer in answers:
        assert 40 < len(answer) < 700, question
    named = [question for question, answer in answers if ".py" in answer or "](" in answer]
    assert len(named) >= len(answers) - 2


def test_the_index_names_every_lesson_in_the_order_of_the_links():
    names = re.findall(r"\| \[\w[^]]*\]\((\w+\.md)\)", (LESSONS / "index.md").read_text())
    assert {f"{page.stem}.md" for page in LESSONS.glob("*.md")} == {*names, "index.md", "course.md"}
    for page, following in zip(names, names[1:], strict=False):
        last = (LESSONS / page).read_text().rstrip().splitlines()[-1]
        assert f"]({following})" in last, page


def test_anchors_lead_to_headings():
    for page in LESSONS.glob("*.md"):
        for target, anchor in re.findall(r"\]\(([\w./]*)#([\w-]+)\)", page.read_text()):
            text = ((page.parent / target) if target else page).read_text()
            headings = re.findall(r"^#+ (.*)$", text, re.M)
            # As mkdocs and GitHub make them: letters without marks, hyphens between.
            made = {re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") for name in headings}
            assert anchor in made, f"{page.name}: {target}#{anchor}"


def test_products_and_weights_of_attention_quadruple(example):
    cost = example("attention_cost")
    for length in (64, 128):
        assert cost.operations(2 * length) == 4 * cost.operations(length)
        assert cost.weight_bytes(2 * length) == 4 * cost.weight_bytes(length)
    # Two products of length x length x width for each head, a multiplication and an addition each.
    assert cost.operations(64) == 2 * 2 * cost.HEADS * cost.HEAD_DIM * 64 * 64


def test_growth_is_the_power(example):
    cost = example("attention_cost")
    lengths = [128, 256, 512, 1024]
    for power in (1.0, 2.0, 2.5):
        assert cost.growth(lengths, [3 * n**power for n in lengths]) == pytest.approx(power)


def test_attention_cost_draws_a_picture(example, tmp_path, monkeypatch, capfd):
    pytest.importorskip("matplotlib")
    picture = tmp_path / "cost.png"
    monkeypatch.setattr(sys, "argv", ["attention_cost.py", "--quick", "--png", str(picture)])
    example("attention_cost").main()
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_texts_of_the_induction_lesson_repeat(example):
    import numpy as np

    induction = example("induction")
    texts = induction.repeating(np.random.default_rng(0), 200, 65, 64)
    periods = set()
    for row in texts:
        (period, *_) = [p for p in range(1, 33) if (row[p:] == row[:-p]).all()]
        periods.add(period)
    # At every distance from a quarter to a half, so that no fixed distance foretells.
    assert periods == set(range(16, 33))


def test_the_leak_is_off_by_one(example):
    import torch

    leaky = example("leaky_mask").leaky
    mask = leaky(4, 4)
    assert mask.int().sum(dim=1).tolist() == [2, 3, 4, 4]
    assert torch.equal(leaky(2, 4), mask[2:])
