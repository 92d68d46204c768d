"""The request schema: what is taken, what is refused, and that nothing else can happen."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minitx.config import SamplingConfig
from minitx.serving.api_errors import APIError
from minitx.serving.completion_request import _KNOWN, parse_completion, parse_json

MOST = 100


def refused(content):
    with pytest.raises(APIError) as caught:
        parse_completion(content, MOST)
    assert caught.value.status == 400
    return caught.value


def test_defaults_are_those_of_openai():
    request = parse_completion({"prompt": "a"}, MOST)
    assert (request.n, request.max_tokens, request.stream, request.echo) == (1, 16, False, False)
    assert request.logprobs is None
    assert request.model is None
    expected = SamplingConfig(temperature=1.0, max_new_tokens=16, seed=request.sampling.seed)
    assert request.sampling == expected


def test_null_is_the_default():
    given_ = dict.fromkeys(_KNOWN - {"prompt", "seed"})
    request = parse_completion({"prompt": "a", "seed": 3, **given_}, MOST)
    assert request == parse_completion({"prompt": "a", "seed": 3}, MOST)


def test_every_request_without_a_seed_draws_its_own():
    seeds = {parse_completion({"prompt": "a"}, MOST).sampling.seed for _ in range(4)}
    assert len(seeds) == 4


def test_all_fields_arrive():
    fields = {
        "model": "m", "prompt": ["a", "b"], "n": 2, "best_of": 2, "max_tokens": 7,
        "temperature": 0.5, "top_p": 0.9, "stop": ["x", "y"], "seed": -1, "logprobs": 2,
        "echo": True, "stream": True, "stream_options": {"include_usage": True},
        "presence_penalty": 1, "frequency_penalty": -1.5, "logit_bias": {"3": -100, "4": 2.5},
        "user": "u", "suffix": "", "top_k": 5, "min_p": 0.1, "typical_p": 0.8,
        "repetition_penalty": 1.2, "ignore_eos": True,
    }  # fmt: skip
    assert set(fields) == _KNOWN
    request = parse_completion(fields, MOST)
    assert request.prompts == ("a", "b")
    assert (request.n, request.n_choices, request.logprobs, request.max_tokens) == (2, 4, 2, 7)
    assert request.echo
    assert request.stream
    assert request.include_usage
    assert request.model == "m"
    assert request.sampling == SamplingConfig(
        temperature=0.5, top_p=0.9, stop_strings=("x", "y"), seed=2**63 - 1, presence_penalty=1.0,
        frequency_penalty=-1.5, logit_bias={3: -100.0, 4: 2.5}, top_k=5, min_p=0.1, typical_p=0.8,
        repetition_penalty=1.2, ignore_eos=True, max_new_tokens=7,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("a", ("a",)), (["a", "b"], ("a", "b")), ([1, 2], ((1, 2),)),
        ([[1, 2], [3]], ((1, 2), (3,))),
    ],
)  # fmt: skip
def test_forms_of_a_prompt(prompt, prompts):
    assert parse_completion({"prompt": prompt}, MOST).prompts == prompts


@pytest.mark.parametrize(
    "prompt",
    [None, "", [], [[]], [""], ["a", ""], [1, "a"], ["a", [1]], [[1], []], [True], 5, {}, [1.5],
     [[1, "a"]], [None], True],
)  # fmt: skip
def test_a_prompt_of_no_form_is_refused(prompt):
    assert refused({"prompt": prompt}).param == "prompt"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_tokens", MOST + 1), ("max_tokens", -1), ("max_tokens", 1.0), ("max_tokens", "5"),
        ("max_tokens", True), ("n", 0), ("n", 129), ("n", 10**400), ("temperature", -0.1),
        ("temperature", "hot"), ("temperature", True), ("temperature", 10**400), ("top_p", 1.1),
        ("top_p", -1), ("top_k", -2), ("top_k", 1.5), ("min_p", 2), ("typical_p", 0),
        ("repetition_penalty", 0), ("presence_penalty", 2.1), ("frequency_penalty", -3),
        ("seed", 2**63), ("seed", 1.5), ("logprobs", 6), ("logprobs", True), ("logprobs", -1),
        ("stop", ""), ("stop", ["a"] * 17), ("stop", [1]), ("stop", 5), ("stop", ["a" * 1001]),
        ("echo", 1), ("stream", "yes"), ("logit_bias", []), ("logit_bias", {"a": 1}),
        ("logit_bias", {"1": 101}), ("logit_bias", {"1": "2"}), ("logit_bias", {"-1": 1}),
        ("logit_bias", {"²": 1}), ("logit_bias", {str(i): 0 for i in range(1025)}),
        ("model", 3), ("user", 3), ("suffix", "end"), ("best_of", 2), ("stream_options", {}),
        ("stream_options", []),
    ],
)  # fmt: skip
def test_a_bad_value_is_refused_by_name(field, value):
    error = refused({"prompt": "a", field: value})
    assert error.param == field
    assert error.message.startswith(field)


def test_options_of_a_stream():
    options = {"include_usage": True, "include_obfuscation": False}
    assert parse_completion(
        {"prompt": "a", "stream": True, "stream_options": options}, MOST
    ).include_usage
    for wrong in ({"include_usage": 1}, {"more": True}):
        refused({"prompt": "a", "stream": True, "stream_options": wrong})


def test_an_unknown_field_is_refused_as_openai_does():
    assert refused({"prompt": "a", "best": 1}).message == (
        "Unrecognized request argument supplied: best"
    )
    # A name that could command a terminal is not repeated.
    assert "\x1b" not in refused({"prompt": "a", "\x1b[31m": 1}).message


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"nul", b"[]", b"3", b'"a"', b"\xff\xfe", b'{"a": NaN}', b'{"a": Infinity}',
     b"[" * 100_000, b'{"n": ' + b"9" * 5000 + b"}"],
)  # fmt: skip
def test_what_is_no_json_object_is_refused(body):
    with pytest.raises(APIError) as caught:
        parse_json(body)
    assert caught.value.status == 400


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)
PROMPTS = (
    st.text(min_size=1, max_size=9)
    | st.lists(st.text(min_size=1, max_size=3), min_size=1, max_size=3)
    | st.lists(st.integers(), min_size=1, max_size=3)
)
REQUESTS = st.fixed_dictionaries({"prompt": PROMPTS | VALUES}).flatmap(
    lambda base: st.dictionaries(st.sampled_from(sorted(_KNOWN)), VALUES, max_size=4).map(
        lambda rest: {**rest, **base}
    )
)


@settings(max_examples=400, deadline=None)
@given(REQUESTS)
def test_any_object_is_taken_or_refused(content):
    try:
        content = parse_json(json.dumps(content, allow_nan=True).encode())
        request = parse_completion(content, MOST)
    except APIError as error:
        json.dumps(error.body)
        status = error.status
    else:
        status = None
    if status is not None:
        assert status == 400
        return
    assert all(request.prompts)
    assert 1 <= request.n <= 128
    assert 0 <= request.max_tokens <= MOST
    assert request.sampling.max_new_tokens == max(1, request.max_tokens)
    # What was taken is within the bounds of generation, which would have raised otherwise.
    assert isinstance(request.sampling, SamplingConfig)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60) | VALUES.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_an_object_or_refused(body):
    status = 400
    try:
        assert isinstance(parse_json(body), dict)
    except APIError as error:
        status = error.status
    assert status == 400
