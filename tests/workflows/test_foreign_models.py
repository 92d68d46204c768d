"""A directory of transformers in the commands: each says what the plain model says."""

import json
import math
from urllib.request import Request, urlopen

import numpy as np
import pytest
import torch
from foreign_models import foreign_model, foreign_tokenizer, save_foreign
from serve_process import ServeProcess

FAMILIES = [("gpt2", "bytes"), ("llama", "pieces"), ("qwen2", "bytes"), ("mistral", "pieces")]


@pytest.fixture(scope="module", params=FAMILIES, ids="-".join)
def foreign(request, tmp_path_factory):
    """A directory in shards, and its model and tokenizer in transformers."""
    family, kind = request.param
    model, tokenizer = foreign_model(family, context=64), foreign_tokenizer(kind)
    directory = tmp_path_factory.mktemp(family)
    save_foreign(directory, model, tokenizer, max_shard_size="20KB")
    return directory, model, tokenizer


def test_generate_is_greedy_as_transformers(foreign, minitx):
    directory, model, tokenizer = foreign
    done = minitx(
        "generate", directory, "--prompt", "the cat", "--temperature", "0", "--max-new-tokens",
        "20", "--ignore-eos", "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    ids = tokenizer("the cat", add_special_tokens=False, return_tensors="pt").input_ids
    their = ids
    for _ in range(20):
        # Ids beyond the tokenizer are padding of the matrix, and never written.
        logits = model(their).logits[0, -1, : len(tokenizer)]
        silent = [i for i in (tokenizer.unk_token_id,) if i is not None]
        logits[silent] = -math.inf
        their = torch.cat([their, logits.argmax()[None, None]], 1)
    written = json.loads(done.out)
    assert written["prompt_ids"] + written["ids"] == their[0].tolist()


def test_eval_is_its_loss(foreign, minitx, tmp_path):
    directory, model, tokenizer = foreign
    text = "the cat sat on the log. So!"
    (tmp_path / "t.txt").write_text(text)
    done = minitx("eval", directory, tmp_path / "t.txt", "--quick", "--json")
    assert done.code == 0, done.err
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
    loss = float(model(ids, labels=ids).loss)
    assert json.loads(done.out)["reports"][0]["plain"]["loss"] == pytest.approx(loss, abs=2e-5)


def test_attn_shows_its_maps(foreign, minitx, tmp_path):
    directory, model, tokenizer = foreign
    done = minitx("attn", directory, "--prompt", "the cat sat", "--npz", tmp_path / "maps.npz")
    assert done.code == 0, done.err
    ids = tokenizer("the cat sat", add_special_tokens=False, return_tensors="pt").input_ids
    expected = torch.cat(model(ids, output_attentions=True).attentions).detach()
    found = np.load(tmp_path / "maps.npz")
    np.testing.assert_allclose(found["weights"], expected, atol=1e-5)


def test_serve_and_explore_open_it(foreign):
    directory, *_ = foreign
    with ServeProcess(directory) as served:
        name = json.load(urlopen(f"{served.url}/v1/models"))["data"][0]["id"]
        body = json.dumps({"model": name, "prompt": "the", "max_tokens": 3}).encode()
        head = {"Content-Type": "application/json"}
        asked = Request(f"{served.url}/v1/completions", data=body, headers=head)
        assert json.load(urlopen(asked))["usage"]["completion_tokens"]
    with ServeProcess(directory, "--prompt", "the cat", command="explore") as served:
        assert b"<html" in urlopen(served.url).read()
