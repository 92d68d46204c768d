"""A model that was trained on documents ends by itself, wherever it is used."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from small_runs import TINY_MODEL, TINY_TRAIN
from small_server import serving
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

from minitx.config import SamplingConfig
from minitx.corpus import load_encoded
from minitx.generation import stream
from minitx.tokenizer import load_tokenizer
from minitx.tokenizer.base import END_OF_TEXT
from minitx.workflows.load import load
from minitx.workflows.train import TrainRequest, train

NOTES = [f"{number} {END_OF_TEXT} {'ab' * (number % 4)} done." for number in range(300)]
"""Short, told apart, and with the name of the end in each."""

KINDS = {"char": 0, "word": 0, "bpe": 290}


@pytest.fixture(scope="module", params=KINDS)
def run(request, tmp_path_factory):
    place = tmp_path_factory.mktemp("notes")
    lines = [json.dumps({"text": note}) + "\n" for note in NOTES]
    (place / "notes.jsonl").write_text("".join(lines))
    asked = TrainRequest(
        data={"corpus": (str(place / "notes.jsonl"),)},
        tokenizer={"kind": request.param, "vocab_size": KINDS[request.param]},
        model={**TINY_MODEL, "d_model": 32, "d_ff": 64, "context_length": 64},
        train={**TINY_TRAIN, "steps": 160, "batch_size": 16, "evaluate_every": 160,
               "checkpoint_every": 160, "learning_rate": 0.01},
        out=place / "runs" / "notes-001",
    )  # fmt: skip
    return train(asked, []).run


@pytest.fixture(scope="module")
def loaded(run):
    return load(run, device="cpu")


GREEDY = SamplingConfig(temperature=0.0, max_new_tokens=200)


def test_it_stands_after_each_document_in_training_and_nowhere_else(run):
    corpus, tokenizer = load_encoded(run / "data"), load_tokenizer(run / "data")
    seen = []
    for ids in (corpus.train_ids, corpus.holdout_ids):
        ends = np.flatnonzero(ids == tokenizer.end_id)
        assert ends[-1] == len(ids) - 1
        seen += [tokenizer.decode(part[:-1]) for part in np.split(ids, ends[:-1] + 1)]
    assert seen[: len(seen) // 2] != NOTES[: len(seen) // 2]  # By their hashes, some are held out.
    unknown = (
        tokenizer.unknown_id is not None and (corpus.holdout_ids == tokenizer.unknown_id).any()
    )
    assert len(seen) == len(NOTES)
    assert unknown or sorted(seen) == sorted(NOTES)


def test_files_of_the_checkpoint_name_it(run, loaded):
    directory, end = loaded.directory, loaded.tokenizer.end_id
    config, generation, tokenizer = (
        json.loads((directory / f"{name}.json").read_text())
        for name in ("config", "generation_config", "tokenizer_config")
    )
    assert config["eos_token_id"] == generation["eos_token_id"] == end
    assert tokenizer["eos_token"] == END_OF_TEXT
    assert end not in generation.get("suppress_tokens", [])
    assert loaded.model.config.end_id == end


def test_text_ends_by_itself_and_the_end_is_not_shown(loaded, minitx, run):
    (one,) = loaded.sample(["7 "], GREEDY)
    assert (one.finish_reason, one.ids[-1]) == ("stop", loaded.tokenizer.end_id)
    assert one.ids.count(loaded.tokenizer.end_id) == 1
    assert one.text.endswith("done.")
    assert one.text == loaded.tokenizer.decode(one.ids)
    pieces = list(stream(loaded.model, loaded.tokenizer, "7 ", GREEDY))
    assert "".join(pieces) == one.text
    flags = ["--prompt", "7 ", "--temperature", 0, "--max-new-tokens", 200]
    assert minitx("generate", run, *flags).out == f"7 {one.text}\n"
    values = json.loads(minitx("generate", run, *flags, "--json").out)
    assert (values["finish_reason"], values["text"]) == ("stop", one.text)


def test_it_goes_on_if_told_to(loaded, minitx, run):
    end = loaded.tokenizer.end_id
    (one,) = loaded.sample(["7 "], replace(GREEDY, ignore_eos=True))
    assert (one.finish_reason, len(one.ids)) == ("length", 200)
    assert end not in one.ids
    flags = ["--prompt", "7 ", "--temperature", 0, "--max-new-tokens", 200, "--ignore-eos"]
    assert minitx("generate", run, *flags).out == f"7 {one.text}\n"
    (best, *_) = loaded.beam_search("7 ", 3, 40, ignore_eos=True)
    assert (best.finish_reason, len(best.ids), end in best.ids) == ("length", 40, False)
    beams = ["--prompt", "7 ", "--beams", 2, "--max-new-tokens", 40, "--json"]
    for more, reason in (([], True), (["--ignore-eos"], False)):
        lines = minitx("generate", run, *beams, *more).out.splitlines()
        assert any(end in json.loads(line)["ids"] for line in lines) == reason


def test_not_before_so_many_tokens_nor_before_what_is_required(loaded):
    end = loaded.tokenizer.end_id
    (one,) = loaded.sample(["7 "], replace(GREEDY, min_new_tokens=60))
    assert len(one.ids) >= 60
    assert end not in one.ids[:59]
    (one,) = loaded.sample(["7 "], replace(GREEDY, required_strings=("299",), max_new_tokens=90))
    assert "299" in one.text
    assert one.ids.index(end) == len(one.ids) - 1 if end in one.ids else len(one.ids) == 90


def test_settings_that_name_it_work_on_it(loaded):
    end = loaded.tokenizer.end_id
    (never,) = loaded.sample(["7 "], replace(GREEDY, logit_bias={end: -1000.0}))
    (soon,) = loaded.sample(["7 "], replace(GREEDY, logit_bias={end: 1000.0}))
    assert (never.finish_reason, end in never.ids) == ("length", False)
    assert (soon.finish_reason, soon.ids, soon.text) == ("stop", [end], "")
    # Of what may be said nothing is left but the end.
    all_text = tuple({chr(code) for code in range(32, 127)} | {"\ufffd"})
    (empty,) = loaded.sample(["7 "], replace(GREEDY, banned_strings=all_text))
    assert (empty.finish_reason, empty.text) == ("stop", "")
    # A penalty counts what was said; the end, which was not, has none.
    with_penalty = replace(GREEDY, repetition_penalty=1.0001)
    assert loaded.sample(["7 "], with_penalty)[0].ids == loaded.sample(["7 "], GREEDY)[0].ids


def test_a_text_is_the_same_whatever_is_beside_it(loaded):
    prompts = ["7 ", "12", "299 ", "done"]
    config = SamplingConfig(temperature=1.0, max_new_tokens=60, num_samples=3, seed=4)
    together = loaded.sample(prompts, config)
    assert {one.finish_reason for one in together} >= {"stop"}
    for place, prompt in enumerate(prompts):
        alone = loaded.sample([prompt], config, first=place)
        beside = together[3 * place : 3 * place + 3]
        assert [one.ids for one in alone] == [one.ids for one in beside]


def test_beams_end_and_the_likeliest_is_that_of_all(loaded):
    end = loaded.tokenizer.end_id
    found = loaded.beam_search("7 ", 4, 40)
    assert found[0].finish_reason == "stop"
    for one in found:
        assert one.ids.count(end) == (one.finish_reason == "stop")
        assert one.text == loaded.tokenizer.decode(one.ids)

    def likelihood(one):
        prompt = loaded.tokenizer.encode("7 ").tolist()
        ids = torch.tensor([[*prompt, *one.ids]])
        with torch.no_grad():
            logits = loaded.model(ids)[0].double()
        silent = [i for i in [loaded.tokenizer.unknown_id] if i is not None]
        chosen = logits.log_softmax(-1)[len(prompt) - 1 : -1]
        assert not set(silent) & set(one.ids)
        return float(chosen.gather(1, ids[0, len(prompt) :, None]).sum())

    likelihoods = [likelihood(one) for one in found]
    assert likelihoods == sorted(likelihoods, reverse=True)


def test_a_server_says_stop(loaded):
    with serving(loaded) as server:
        fields = {"prompt": "7 ", "max_tokens": 60, "temperature": 0.7, "n": 4, "seed": 3}
        whole = server.complete(**fields, logprobs=1).json
        reasons = [choice["finish_reason"] for choice in whole["choices"]]
        assert reasons.count("stop") >= 3
        for choice in whole["choices"]:
            assert END_OF_TEXT not in choice["logprobs"]["tokens"]
            assert "".join(choice["logprobs"]["tokens"]) == choice["text"]
        events, done = server.complete(**fields, stream=True).events
        assert done
        for choice in whole["choices"]:
            own = [e["choices"][0] for e in events if e["choices"][0]["index"] == choice["index"]]
            assert "".join(one["text"] for one in own) == choice["text"]
            assert own[-1]["finish_reason"] == choice["finish_reason"]
            assert [one["finish_reason"] for one in own[:-1]] == [None] * (len(own) - 1)
        on = server.complete(**fields, ignore_eos=True).json
        assert [choice["finish_reason"] for choice in on["choices"]] == ["length"] * 4
        assert on["usage"]["completion_tokens"] == 240


def test_transformers_ends_by_itself_with_the_same_text(loaded):
    (one,) = loaded.sample(["7 "], replace(GREEDY, max_new_tokens=40))
    model = AutoModelForCausalLM.from_pretrained(loaded.directory).eval()
    tokenizer = AutoTokenizer.from_pretrained(loaded.directory)
    ids = tokenizer("7 ", return_tensors="pt").input_ids
    found = model.generate(ids, do_sample=False, max_new_tokens=40)[0, ids.size(1) :].tolist()
    assert found == one.ids
    says = pipeline("text-generation", model=model, tokenizer=tokenizer)
    (answer,) = says("7 ", do_sample=False, max_new_tokens=40)
    assert answer["generated_text"] == "7 " + one.text
    several = says(["7 ", "12 "], do_sample=False, max_new_tokens=40, batch_size=2)
    assert several[0][0]["generated_text"] == "7 " + one.text


def test_scoring_and_looking_inside(run, minitx, tmp_path):
    for command in (
        ["eval", run, "--json"], ["diagnose", run, "--json"],
        ["attn", run, "--prompt", "7 <|endoftext|>", "--json"], ["report", run, "--no-attn"],
    ):  # fmt: skip
        done = minitx(*command)
        assert done.code == 0, done.err
        assert "Traceback" not in done.err
    # A file of the same records is scored as they were learned: with an end after each.
    (tmp_path / "more.jsonl").write_text("".join(json.dumps({"text": n}) + "\n" for n in NOTES))
    done = minitx("eval", run, tmp_path / "more.jsonl", "--quick", "--json", "--unknown", "replace")
    assert done.code == 0, done.err
    (values,) = json.loads(done.out)["reports"]
    tokenizer = load_tokenizer(run / "data")
    n_tokens = sum(len(tokenizer.encode(note, "replace")) + 1 for note in NOTES)
    assert values["text"]["tokens"] == n_tokens
