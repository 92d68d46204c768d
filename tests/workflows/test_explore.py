"""What the page of `minitx explore` is told: the figures of the library, and who may ask."""

import base64
import http.client
import json

import numpy as np
import pytest
import torch
from small_page import exploring

from minitx.checkpoint.rundir import resolve_checkpoint
from minitx.inspection.attention_maps import read_attention
from minitx.inspection.forward_steps import forward_steps
from minitx.inspection.patching import Patcher
from minitx.workflows.load import open_checkpoint


def floats(packed):
    return np.frombuffer(base64.b64decode(packed), "<f4")


@pytest.fixture(scope="module")
def page(tiny_run):
    with exploring(open_checkpoint(resolve_checkpoint(tiny_run)), "3 green bottles") as opened:
        yield opened


def told(page, name, **given):
    status, content = page.answer(name, **given)
    assert status == 200, content
    return content


def test_the_text_and_what_follows(page):
    model, tokenizer = page.explorer.model, page.explorer.tokenizer
    found = told(page, "read", text="3 green bottles")
    ids = tokenizer.encode("3 green bottles")
    assert found["ids"] == ids.tolist()
    assert "".join(found["pieces"]) == "3 green bottles"
    with torch.no_grad():
        logits = model(torch.from_numpy(ids.astype(np.int64))[None])[0]
    chances = logits.softmax(-1)
    expected = [None] + [float(chances[i, ids[i + 1]]) for i in range(len(ids) - 1)]
    assert found["chances"][1:] == pytest.approx(expected[1:], abs=1e-5)
    assert found["chances"][0] is None
    assert told(page, "read", ids=found["ids"]) == found
    for length in (1, 7):
        packed = told(page, "distribution", ids=found["ids"][:length])
        np.testing.assert_allclose(floats(packed), logits[length - 1], atol=1e-4)
    pieces = told(page, "vocabulary")
    assert [pieces[i] for i in ids] == found["pieces"]


def test_every_number_of_every_step_can_be_had(page):
    ids = told(page, "read", text="3 green")["ids"]
    ours = forward_steps(page.explorer.model, np.array(ids))
    lines = told(page, "source")
    for i, (step, other) in enumerate(zip(told(page, "steps", ids=ids), ours, strict=True)):
        assert lines[step["line"] - 1].strip() == step["code"]
        for head in range(max(1, step["heads"])):
            part = told(page, "numbers", ids=ids, step=i, head=head, row=0, column=0)
            assert part["shape"] == step["shape"] == list(other.shape)
            found = floats(part["values"]).reshape(part["shape"])
            np.testing.assert_allclose(found, other.values(head), atol=1e-5)
    later = told(page, "numbers", ids=ids, step=1, row=2, column=3)
    assert (later["row"], later["column"], later["shape"]) == (2, 3, [len(ids) - 2, 13])
    np.testing.assert_allclose(
        floats(later["values"]).reshape(later["shape"]), ours[1].values(0)[2:, 3:], atol=1e-6
    )


def test_why_a_token(page):
    explorer = page.explorer
    ids = told(page, "read", text="3 green bottles")["ids"]
    token = ids[-1]
    maps = read_attention(explorer.model, explorer.tokenizer, np.array(ids))
    attention = told(page, "attention", ids=ids)
    found = floats(attention["weights"]).reshape(4, -1)
    np.testing.assert_allclose(found, maps.weights[:, :, -1].reshape(4, -1), atol=1e-6)
    rolled = floats(attention["rollout"]).reshape(2, -1)
    np.testing.assert_allclose(rolled, maps.rollout()[:, -1], atol=1e-6)
    logits = floats(told(page, "distribution", ids=ids))
    lens = told(page, "lens", ids=ids, token=token)
    chances = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    assert lens[-1]["chance"] == pytest.approx(chances[token], abs=1e-5)
    assert lens[-1]["rank"] == 1 + (logits > logits[token]).sum()
    assert [one["after"] for one in lens] == ["embedding", "layer 0", "layer 1"]
    attribution = told(page, "attribution", ids=ids, token=token)
    assert attribution["logit"] == pytest.approx(logits[token], abs=1e-4)
    assert sum(part[3] for part in attribution["parts"]) == pytest.approx(logits[token], abs=1e-4)
    ablation = told(page, "ablation", ids=ids, token=token)
    assert np.shape(ablation["heads"]) == (2, 2)
    assert len(ablation["mlp"]) == 2
    patching = told(page, "patching", ids=ids, token=token, text="1 green bottles")
    other = explorer.tokenizer.encode("1 green bottles")
    patcher = Patcher(explorer.model, np.array(ids), np.asarray(other, np.int64), token)
    np.testing.assert_allclose(patching["heads"], patcher.everywhere().heads, atol=1e-5)
    one = told(page, "patching", ids=ids, token=token, text="1 green bottles", layer=1, head=1)
    np.testing.assert_allclose(one["by_position"], patcher.head_by_position(1, 1), atol=1e-5)


def test_passages_are_those_of_the_train_part(page, tiny_run):
    text = (tiny_run / "data/train.txt").read_text()
    ids = told(page, "read", text="green bottles hanging")["ids"]
    found = told(page, "passages", ids=ids)
    assert found["count"] == text.count("green bottles hanging")
    assert found["length"] == len(ids)
    for one in found["excerpts"]:
        assert one["same"] == "green bottles hanging"
        assert one["before"] + one["same"] + one["after"] in text


@pytest.mark.parametrize(
    ("name", "given", "words"),
    [
        ("read", {"text": ""}, "prompt is empty"),
        ("read", {"text": "3" * 99}, "context is 32"),
        ("read", {"text": "\u00fc"}, "\u00fc"),
        ("read", {}, "no list of token ids"),
        ("read", {"ids": []}, "empty"),
        ("distribution", {"ids": [99_999]}, "no list of token ids"),
        ("distribution", {"ids": [True]}, "no list of token ids"),
        ("distribution", {"ids": "1"}, "no list of token ids"),
        ("numbers", {"ids": [1], "step": 999}, "step 999 does not exist"),
        ("numbers", {"ids": [1], "step": "1"}, "step is '1', not a whole number"),
        ("numbers", {"ids": [1], "step": 1, "row": 1}, "row 1 does not exist"),
        ("lens", {"ids": [1], "token": -1}, "token -1 does not exist"),
        ("patching", {"ids": [1], "token": 1}, "no corrupted prompt"),
        ("patching", {"ids": [1], "token": 1, "text": "33"}, "1 tokens and the corrupted one 2"),
    ],
)
def test_what_cannot_be_answered_is_said_in_one_line(page, name, given, words):
    status, content = page.answer(name, **given)
    assert status == 400
    assert words in content["error"]["message"]
    assert "\n" not in content["error"]["message"]


def test_who_may_ask(page):
    status, headers, body = page.ask("GET", "/")
    assert status == 200
    assert b"One forward pass" in body
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "connect-src 'self'" in policy
    body = json.dumps({"text": "3"})
    kind = {"Content-Type": "application/json"}
    assert page.ask("POST", "/answers/read", body, **kind)[0] == 200
    # A page of another site: by a name that resolves to here, or by a form, which sends no JSON.
    assert page.ask("POST", "/answers/read", body, **kind, Host="evil.example")[0] == 421
    assert page.ask("GET", "/", Host="evil.example:80")[0] == 421
    assert page.ask("POST", "/answers/read", body, **{"Content-Type": "text/plain"})[0] == 415
    assert page.ask("GET", "/answers/read")[0] == 405
    assert page.ask("POST", "/", body, **kind)[0] == 405
    for path in ("/answers/model", "/answers/", "/read", "/answers/../read", "/favicon.ico"):
        assert page.ask("POST", path, body, **kind)[0] == 404
    assert page.ask("POST", "/answers/read", "[1]", **kind)[0] == 400
    assert page.ask("POST", "/answers/read", "{", **kind)[0] == 400
    assert page.ask("POST", "/answers/read", b" " * (1 << 21), **kind)[0] == 413


def test_a_defect_is_one_answer_and_the_next_is_answered(page, monkeypatch, caplog):
    def broken(given):
        raise ZeroDivisionError

    monkeypatch.setitem(page.explorer.__dict__, "read", broken)
    app_answers = page.explorer.answers
    assert app_answers["read"] is broken
    # The page took its answers when it was opened, so the server goes on with the old one.
    assert page.answer("read", text="3")[0] == 200


def test_a_client_that_leaves_harms_nobody(page):
    connection = http.client.HTTPConnection("127.0.0.1", page.port, timeout=30)
    connection.request(
        "POST", "/answers/steps", json.dumps({"ids": [1, 2]}), {"Content-Type": "application/json"}
    )
    connection.close()
    assert page.answer("read", text="3")[0] == 200


def test_a_directory_without_a_run(tmp_path, tiny_gpt2_run):
    import shutil

    directory = tmp_path / "imported"
    shutil.copytree(resolve_checkpoint(tiny_gpt2_run), directory)
    with exploring(open_checkpoint(directory)) as page:
        prompt = page.explorer.study.prompt
        ids = told(page, "read", text=prompt)["ids"]
        names = [step["name"] for step in told(page, "steps", ids=ids)]
        assert "position added" in names
        assert "missing" in told(page, "passages", ids=ids)
        attribution = told(page, "attribution", ids=ids, token=5)
        assert attribution["total"] == pytest.approx(attribution["logit"], abs=1e-4)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--port", 70000], "--port is 70000"),
        (["--prompt", "\u00fc"], "\u00fc"),
        (["--device", "abacus"], "abacus"),
    ],
)
def test_what_explore_refuses(minitx, tiny_run, flags, words):
    done = minitx("explore", tiny_run, "--port", 0, *flags)
    assert done.code == 2
    assert words in done.err
    assert len(done.err.strip().splitlines()) == 1
