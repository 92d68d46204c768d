"""Completions, as the real `openai` client gets them, against the library and brute force."""

import json

import openai
import pytest
import torch
from small_server import serving

from minitx.config import SamplingConfig

PROMPT = "1 green bottle"


@pytest.fixture(scope="module")
def client(server):
    # The client's own retries would hide a wrong status.
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as found:
        yield found


def expected(loaded, prompt, **changed):
    config = SamplingConfig(**{"temperature": 1.0, "max_new_tokens": 40, "seed": 7, **changed})
    return loaded.sample([prompt], config, record_probabilities=True)


SETTINGS = [
    {},
    {"temperature": 0},
    {"temperature": 0.7, "top_p": 0.9},
    {"presence_penalty": 0.5, "frequency_penalty": 0.3},
    {"logit_bias": {"3": -100, "5": 2}},
    {"extra_body": {"top_k": 5}},
    {"extra_body": {"min_p": 0.1, "typical_p": 0.9, "repetition_penalty": 1.3}},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda one: json.dumps(one)[:40])
def test_text_is_that_of_generate_with_and_without_a_stream(client, server, settings):
    asked = {"model": "verses-001", "prompt": PROMPT, "max_tokens": 40, "seed": 7, **settings}
    whole = client.completions.create(**asked)
    pieces = list(client.completions.create(**asked, stream=True))
    wanted = {**settings, **settings.get("extra_body", {})}
    wanted.pop("extra_body", None)
    if "logit_bias" in wanted:
        wanted["logit_bias"] = {int(key): value for key, value in wanted["logit_bias"].items()}
    (one,) = expected(server.loaded, PROMPT, **wanted)
    assert whole.choices[0].text == one.text
    assert "".join(piece.choices[0].text for piece in pieces) == one.text
    assert whole.choices[0].finish_reason == pieces[-1].choices[0].finish_reason == "length"
    assert whole.usage.completion_tokens == 40
    assert whole.usage.prompt_tokens == len(one.prompt_ids)
    assert whole.model == "verses-001"


@pytest.mark.parametrize("which", ["loaded", "bpe_loaded"])
def test_a_process_of_generate_says_the_same(which, request, minitx):
    found = request.getfixturevalue(which)
    given = ["--prompt", PROMPT, "--seed", 7, "--max-new-tokens", 30, "--temperature", 1, "--json"]
    said = json.loads(minitx("generate", found.directory, *given, "--device", "cpu").out)
    with serving(found) as server:
        got = server.complete(prompt=PROMPT, seed=7, max_tokens=30).json
        ids = server.complete(prompt=said["prompt_ids"], seed=7, max_tokens=30).json
    assert got["choices"][0]["text"] == ids["choices"][0]["text"] == said["text"]


def test_several_prompts_and_samples_are_numbered_as_by_openai(client, server):
    prompts = [PROMPT, "3 green"]
    got = client.completions.create(model="verses-001", prompt=prompts, n=3, max_tokens=40, seed=7)
    assert [choice.index for choice in got.choices] == list(range(6))
    texts = [
        one.text
        for place, prompt in enumerate(prompts)
        for one in expected(server.loaded, prompt, num_samples=6)[3 * place : 3 * place + 3]
    ]
    assert [choice.text for choice in got.choices] == texts
    assert got.usage.completion_tokens == 240
    streamed = [""] * 6
    for piece in client.completions.create(
        model="verses-001", prompt=prompts, n=3, max_tokens=40, seed=7, stream=True
    ):
        streamed[piece.choices[0].index] += piece.choices[0].text
    assert streamed == texts


def test_without_a_seed_texts_differ(client):
    texts = {
        client.completions.create(
            model="verses-001", prompt=PROMPT, max_tokens=60, temperature=2
        ).choices[0].text
        for _ in range(4)
    }  # fmt: skip
    assert len(texts) == 4


@pytest.mark.parametrize("seed", [{}, {"seed": 7}], ids=["no seed", "seed"])
def test_every_choice_of_a_list_draws_its_own(server, seed):
    asked = {"prompt": [PROMPT] * 4, "n": 2, "max_tokens": 60, "temperature": 2, **seed}
    first, second = (
        [choice["text"] for choice in server.complete(**asked).json["choices"]] for _ in range(2)
    )
    assert len(set(first)) == 8
    assert (first == second) is bool(seed)


@pytest.mark.parametrize("temperature", [9e-6, 1e-37, 1e-40, 1e-320])
def test_a_tiny_temperature_is_greedy(server, temperature):
    asked = {"prompt": [PROMPT, "3 green"], "max_tokens": 40, "logprobs": 2}
    got = server.complete(**asked, temperature=temperature)
    assert got.status == 200
    assert got.json["choices"] == server.complete(**asked, temperature=0).json["choices"]


def test_a_stop_string_ends_the_text_before_it(client, server):
    asked = {"model": "verses-001", "prompt": PROMPT, "max_tokens": 200, "seed": 7}
    full = client.completions.create(**asked).choices[0].text
    stop = full[20:24]
    got = client.completions.create(**asked, stop=["@@", stop])
    assert got.choices[0].text == full[: full.index(stop)]
    assert got.choices[0].finish_reason == "stop"
    pieces = list(client.completions.create(**asked, stop=stop, stream=True))
    assert "".join(piece.choices[0].text for piece in pieces) == got.choices[0].text
    assert pieces[-1].choices[0].finish_reason == "stop"


def test_usage_closes_a_stream_that_asks_for_it(server):
    asked = {"prompt": PROMPT, "max_tokens": 5, "stream": True}
    events, done = server.complete(**asked, stream_options={"include_usage": True}).events
    assert done
    assert all(event["usage"] is None for event in events[:-1])
    assert events[-1]["choices"] == []
    n_prompt = len(server.loaded.tokenizer.encode(PROMPT))
    assert events[-1]["usage"] == {
        "prompt_tokens": n_prompt, "completion_tokens": 5, "total_tokens": n_prompt + 5,
    }  # fmt: skip
    assert len({event["id"] for event in events}) == 1
    events, done = server.complete(**asked).events
    assert done
    assert all("usage" not in event for event in events)


def log_probabilities(loaded, ids):
    """Of the token after each prefix, by reading each prefix anew."""
    rows = []
    with torch.inference_mode():
        for end in range(1, len(ids) + 1):
            logits = loaded.model(torch.tensor([ids[:end]]))[0, -1]
            rows.append(logits.double().log_softmax(dim=-1))
    return rows


@pytest.mark.parametrize("which", ["loaded", "bpe_loaded"])
@pytest.mark.parametrize("new", [0, 10])
def test_echo_with_log_probabilities_equals_brute_force(which, new, request):
    found = request.getfixturevalue(which)
    tokenizer = found.tokenizer
    with serving(found) as server:
        got = server.complete(prompt=PROMPT, max_tokens=new, seed=7, echo=True, logprobs=3).json
        streamed, done = server.complete(
            prompt=PROMPT, max_tokens=new, seed=7, echo=True, logprobs=3, stream=True
        ).events
    assert done
    (choice,) = got["choices"]
    prompt_ids = tokenizer.encode(PROMPT).tolist()
    (one,) = expected(found, PROMPT, max_new_tokens=max(1, new))
    ids = prompt_ids + one.ids[:new]
    assert choice["text"] == PROMPT + (one.text if new else "")
    assert got["usage"]["completion_tokens"] == new
    logprobs = choice["logprobs"]
    assert len(logprobs["tokens"]) == len(ids)
    rows = log_probabilities(found, ids)
    assert logprobs["token_logprobs"][0] is None
    assert logprobs["top_logprobs"][0] is None
    for place in range(1, len(ids)):
        row = rows[place - 1]
        told = logprobs["token_logprobs"][place]
        assert told == pytest.approx(float(row[ids[place]]), abs=1e-4)
        top = logprobs["top_logprobs"][place]
        assert 3 <= len(top) <= 4
        best = sorted(top.values(), reverse=True)[:3]
        assert best == pytest.approx(row.topk(3).values.tolist(), abs=1e-4)
        assert told in top.values()
    for offset, token in zip(logprobs["text_offset"], logprobs["tokens"], strict=True):
        if not token.startswith("bytes:"):
            assert choice["text"][offset:].startswith(token)
    joined = {key: [] for key in logprobs}
    for event in streamed:
        for key, values in event["choices"][0]["logprobs"].items():
            joined[key] += values
    assert joined == logprobs


def test_no_token_of_a_stop_string_is_told(server):
    asked = {"prompt": PROMPT, "max_tokens": 100, "seed": 7, "logprobs": 0}
    full = server.complete(**asked).json["choices"][0]
    stop = full["text"][30:36]
    got = server.complete(**asked, stop=stop).json["choices"][0]
    size = full["text"].index(stop)
    assert got["logprobs"]["tokens"] == full["logprobs"]["tokens"][:size]
    events, _ = server.complete(**asked, stop=stop, stream=True).events
    tokens = [one for event in events for one in event["choices"][0]["logprobs"]["tokens"]]
    assert tokens == got["logprobs"]["tokens"]
    # Only the token that was drawn, as none of the likeliest was asked for.
    assert all(
        list(top) == [token] or top == {token: pytest.approx(value)}
        for top, token, value in zip(
            got["logprobs"]["top_logprobs"], got["logprobs"]["tokens"],
            got["logprobs"]["token_logprobs"], strict=True,
        )
    )  # fmt: skip


def test_zero_tokens_only_read_the_prompt(server):
    got = server.complete(prompt=[PROMPT, "2"], max_tokens=0).json
    assert [choice["text"] for choice in got["choices"]] == ["", ""]
    assert {choice["finish_reason"] for choice in got["choices"]} == {"length"}
    assert got["usage"]["completion_tokens"] == 0


def test_text_goes_on_past_the_context(server):
    context = server.loaded.model.config.context_length
    got = server.complete(prompt=PROMPT, max_tokens=3 * context, seed=7).json
    (one,) = expected(server.loaded, PROMPT, max_new_tokens=3 * context)
    assert got["choices"][0]["text"] == one.text


def test_models(client, server):
    (model,) = client.models.list().data
    assert (model.id, model.object, model.owned_by) == ("verses-001", "model", "minitx")
    assert client.models.retrieve("verses-001") == model
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("other")
    assert caught.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        client.completions.create(model="other", prompt=PROMPT)
    assert server.complete(prompt=PROMPT).status == 200


def test_errors_are_those_that_the_client_knows(client):
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="verses-001", prompt=PROMPT, temperature=-1)
    assert caught.value.param == "temperature"
    assert caught.value.type == "invalid_request_error"


class Characters:
    """Characters of one to four bytes, each byte a token of its own."""

    TEXT = "aé日本😀ü€"


@pytest.fixture(scope="module")
def wide_loaded(tmp_path_factory):
    """A model of bytes that has learned characters of several bytes."""
    from minitx.workflows.load import load
    from minitx.workflows.train import TrainRequest, train

    place = tmp_path_factory.mktemp("wide")
    (place / "wide.txt").write_text((Characters.TEXT + "\n") * 300)
    request = TrainRequest(
        data={"corpus": (str(place / "wide.txt"),)},
        tokenizer={"kind": "bpe", "vocab_size": 257},
        model={"n_layers": 1, "n_heads": 1, "d_model": 32, "context_length": 32},
        train={"steps": 80, "batch_size": 4, "threads": 1, "device": "cpu", "dtype": "float32"},
        out=place / "runs" / "wide-001",
    )
    return load(train(request, []).run, device="cpu")


def test_no_character_is_broken_in_a_stream(wide_loaded):
    prompt = Characters.TEXT
    with serving(wide_loaded) as server:
        for seed in range(4):
            asked = {"prompt": prompt, "max_tokens": 60, "seed": seed, "temperature": 0.8}
            answered = server.complete(**asked, stream=True, logprobs=1)
            events, done = answered.events
            assert done
            pieces = [event["choices"][0]["text"] for event in events]
            (one,) = wide_loaded.sample(
                [prompt], SamplingConfig(temperature=0.8, max_new_tokens=60, seed=seed)
            )
            assert "".join(pieces) == one.text
            assert len(one.ids) > len(one.text.encode()) / 4
            # Every character of the text came whole, in one piece.
            assert any(len(piece.encode()) > 1 for piece in pieces)
            tokens = [t for event in events for t in event["choices"][0]["logprobs"]["tokens"]]
            assert len(tokens) == 60
            assert any(token.startswith("bytes:\\x") for token in tokens)
