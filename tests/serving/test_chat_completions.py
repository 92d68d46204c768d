"""Chat completions, as the `openai` client gets them, against the conversation in the library."""

import os
import subprocess
import sys

import openai
import pytest
from chats import write_chats
from small_runs import TINY_TRAIN
from small_server import serving

from minitx.config import SamplingConfig
from minitx.tokenizer.conversation import conversation_text
from minitx.workflows.load import load
from minitx.workflows.train import TrainRequest, train

QUESTION = [{"role": "user", "content": "box 3, red?"}]
CONTEXT = 64


@pytest.fixture(scope="module")
def talking(tmp_path_factory):
    """A model that has just begun to learn: what it draws is long and differs."""
    directory = tmp_path_factory.mktemp("talking")
    shape = {"n_layers": 1, "n_heads": 2, "n_kv_heads": 2, "d_model": 16, "d_ff": 32}
    request = TrainRequest(
        data={"corpus": (str(write_chats(directory / "chats.jsonl")),)},
        tokenizer={"kind": "char"}, model={**shape, "context_length": CONTEXT},
        train={**TINY_TRAIN, "steps": 4}, out=directory / "runs" / "chats-001",
    )  # fmt: skip
    return load(train(request, []).run, device="cpu")


@pytest.fixture(scope="module")
def client(talking):
    with (
        serving(talking, max_tokens=1000) as found,
        openai.OpenAI(base_url=f"{found.url}/v1", api_key="none", max_retries=0) as client,
    ):
        yield client


def ask(client, messages=QUESTION, **settings):
    asked = {"model": "chats-001", "messages": messages, "seed": 7, **settings}
    return client.chat.completions.create(**asked)


def expected(talking, messages=QUESTION, **settings):
    prompt = conversation_text(messages, is_asked=True)
    config = SamplingConfig(**{"temperature": 1.0, "max_new_tokens": 20, "seed": 7, **settings})
    return talking.sample([prompt], config, record_probabilities=True)


@pytest.mark.parametrize("settings", [{}, {"temperature": 0}, {"top_p": 0.8}, {"stop": "e"}])
def test_the_answer_is_that_of_the_library_with_and_without_a_stream(client, talking, settings):
    wanted = {key: value for key, value in settings.items() if key != "stop"}
    if "stop" in settings:
        wanted["stop_strings"] = (settings["stop"],)
    (one,) = expected(talking, **wanted)
    whole = ask(client, max_completion_tokens=20, **settings)
    assert whole.object == "chat.completion"
    assert whole.choices[0].message.role == "assistant"
    assert whole.choices[0].message.content == one.text
    assert whole.choices[0].finish_reason == one.finish_reason
    pieces = [*ask(client, max_tokens=20, stream=True, **settings)]
    assert {piece.object for piece in pieces} == {"chat.completion.chunk"}
    deltas = [piece.choices[0].delta for piece in pieces]
    assert deltas[0].role == "assistant"
    assert "".join(delta.content or "" for delta in deltas) == one.text
    reasons = [piece.choices[0].finish_reason for piece in pieces]
    assert reasons == [None] * (len(pieces) - 1) + [one.finish_reason]


def test_tokens_are_counted_and_their_probabilities_told(client, talking):
    (one,) = expected(talking)
    whole = ask(client, max_tokens=20, logprobs=True, top_logprobs=2)
    content = whole.choices[0].logprobs.content
    for token, chosen in zip(content, one.chosen, strict=False):
        assert token.logprob == pytest.approx(chosen.log_probability, abs=1e-4)
        assert bytes(token.bytes).decode() == token.token
        assert len(token.top_logprobs) in (2, 3)
        ranked = [likely.logprob for likely in token.top_logprobs]
        assert ranked == sorted(ranked, reverse=True)
    read = len(talking.tokenizer.encode(conversation_text(QUESTION, is_asked=True)))
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (read, len(one.ids))
    *_, last = ask(client, max_tokens=20, stream=True, stream_options={"include_usage": True})
    assert last.usage == whole.usage
    assert last.choices == []


def test_it_answers_for_as_long_as_the_context_allows(client, talking):
    read = len(talking.tokenizer.encode(conversation_text(QUESTION, is_asked=True)))
    for settings in ({}, {"max_tokens": 900}):
        whole = ask(client, extra_body={"ignore_eos": True}, **settings)
        assert read + whole.usage.completion_tokens == CONTEXT
        assert whole.choices[0].finish_reason == "length"


def test_messages_may_be_written_in_parts_and_by_a_developer(client):
    parts = [{"type": "text", "text": "box 3,"}, {"type": "text", "text": " red?"}]
    messages = [{"role": "developer", "content": "be brief"}, {"role": "user", "content": parts}]
    plain = [{"role": "system", "content": "be brief"}, *QUESTION]
    unused = {"tools": [], "response_format": {"type": "text"}, "store": False}
    told = [ask(client, m, max_tokens=20, **s) for m, s in ((messages, unused), (plain, {}))]
    assert told[0].choices[0].message.content == told[1].choices[0].message.content
    assert told[0].usage == told[1].usage


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools is not supported"),
        ({"tool_choice": "auto"}, "tool_choice is not supported"),
        ({"response_format": {"type": "json_object"}}, "response_format is not supported"),
        ({"messages": []}, "at least one message"),
        ({"messages": [{"role": "tool", "content": "a", "tool_call_id": "1"}]}, "role 'tool'"),
        ({"messages": [{"role": "user", "content": None}]}, "content of message 1 is no text"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "'image_url'"),
        ({"messages": [{"role": "user", "content": "a\ufdd2b"}]}, "noncharacter"),
        ({"messages": [{"role": "user", "content": "Z"}]}, "never saw 'Z'"),
        ({"messages": [{"role": "user", "content": "b" * 80}]}, "at most 64 are read"),
        ({"max_completion_tokens": 0}, "must be an integer of at least 1"),
        ({"max_tokens": True}, "must be an integer of at least 1"),
        ({"top_logprobs": 2}, "only allowed when logprobs is true"),
        ({"logprobs": True, "top_logprobs": 9}, "top_logprobs must be from 0"),
        ({"logprobs": 1}, "logprobs must be true or false"),
        ({"extra_body": {"echo": True}}, "argument supplied: echo"),
        ({"extra_body": {"prompt": "a"}}, "argument supplied: prompt"),
        ({"extra_body": {"audio": {}}}, "argument supplied: audio"),
        ({"temperature": 900}, "temperature must be"),
    ],
    ids=lambda one: next(iter(one)) if isinstance(one, dict) else "",
)
def test_what_is_not_there_is_refused_by_name(client, settings, told):
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, **settings)
    assert told in caught.value.body["message"]


def test_other_programs_talk_with_it(client, talking):
    """LangChain, where it is installed."""
    langchain = pytest.importorskip("langchain_openai")
    model = langchain.ChatOpenAI(
        model="chats-001", base_url=str(client.base_url), api_key="none", seed=7, temperature=0
    )
    (one,) = expected(talking, temperature=0.0, max_new_tokens=CONTEXT)
    said = model.invoke([("user", "box 3, red?")]).content
    assert one.text.startswith(said)
    assert "".join(piece.content for piece in model.stream([("user", "box 3, red?")])) == said


def test_llm_talks_with_it(client, talking, tmp_path):
    """Simon Willison's `llm`, where it is installed, as docs/ecosystem.md says."""
    pytest.importorskip("llm")
    (tmp_path / "extra-openai-models.yaml").write_text(
        f"- model_id: mine\n  model_name: chats-001\n  api_base: {client.base_url}\n"
    )
    asked = ["-m", "mine", "box 3, red?", "-o", "temperature", "0", "--key", "none", "--no-log"]
    done = subprocess.run(
        [sys.executable, "-m", "llm", "prompt", *asked], capture_output=True, text=True,
        timeout=100, env={**os.environ, "LLM_USER_PATH": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (one,) = expected(talking, temperature=0.0, max_new_tokens=CONTEXT)
    assert done.stdout.strip()
    assert one.text.startswith(done.stdout.removesuffix("\n"))
