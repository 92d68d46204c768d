"""A row's fault is its own, at every stage; and what no distribution can be is told as that."""

import dataclasses
import math

import pytest
import torch
from random_models import built

from minitx.config import ModelConfig, SamplingConfig
from minitx.errors import BadInputError
from minitx.fast import decoding as decoding_module
from minitx.fast import draw as draw_module
from minitx.generation import Row, TextBatch, chooser, generate, stream
from minitx.generation.chooser import BannedStrings, RequiredStrings
from minitx.generation.filters import source
from minitx.generation.generate_text import beam_search
from minitx.generation.row import TextStream
from minitx.tokenizer import train_tokenizer

TOKENIZER = train_tokenizer("abcdefgh ijklmn\nopqrst uvwxyz.\n", "char", 0)
CONFIG = ModelConfig(
    vocab_size=TOKENIZER.vocab_size, context_length=32, n_layers=2, n_heads=2, n_kv_heads=1,
    d_model=16, d_ff=40, head_dim=8,
)  # fmt: skip
MODEL = built(CONFIG)
GOOD = SamplingConfig(temperature=1.0, max_new_tokens=12, seed=5)
BAD_SEED = 13
TINY = [9e-6, 1e-37, 1e-40, 1e-300, 5e-324]


def failing(function, is_bad):
    """The function, but it fails for what is bad, the fifth time or later."""
    seen = []

    def planted(*arguments, **named):
        if is_bad(*arguments, **named):
            seen.append(1)
            if len(seen) > 4:
                raise RuntimeError("planted")
        return function(*arguments, **named)

    return planted


# Of each stage: the settings of the bad row, whether it is recorded, and what fails for it.
STAGES = {
    "filters": (
        {"temperature": 0.77, "top_p": 0.9}, False, chooser, "reshape",
        lambda logits, config: config.temperature == 0.77,
    ),
    "draw": ({}, False, chooser, "number", lambda origin, _: origin == source(BAD_SEED, 0)),
    "banned": ({"banned_strings": ("qq",)}, False, BannedStrings, "mask", lambda *_: True),
    "required": ({"required_strings": ("q",)}, False, RequiredStrings, "missing", lambda *_: True),
    "text": ({"stop_strings": ("qqq",)}, False, TextStream, "feed", lambda s, *_: s.stops),
    "end of text": (
        {"max_new_tokens": 5, "stop_strings": ("qqq",)}, False, TextStream, "_give",
        lambda s, *_: s.stops,
    ),
    "log-probabilities": ({}, True, chooser, "describe", lambda *_: True),
}  # fmt: skip


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("alike", [True, False])
def test_a_fault_of_one_row_leaves_the_others_as_they_are(stage, alike, monkeypatch):
    changes, record, place, name, is_bad = STAGES[stage]
    good = [dataclasses.replace(GOOD, seed=seed) for seed in range(4)]
    if not alike:
        good[1] = dataclasses.replace(good[1], top_p=0.9, frequency_penalty=0.5)
    rows = [Row([1, 2], config) for config in good]
    bad = Row([3], dataclasses.replace(GOOD, seed=BAD_SEED, **changes), record=record)
    with monkeypatch.context() as patched:
        patched.setattr(place, name, failing(getattr(place, name), is_bad))
        batch = TextBatch(MODEL, TOKENIZER)
        batch.add([*rows[:2], bad, *rows[2:]])
        while batch.rows:
            batch.step()
    assert isinstance(bad.failure, RuntimeError)
    assert len(bad.ids) <= 5
    for row, config in zip(rows, good, strict=True):
        (alone,) = generate(MODEL, TOKENIZER, [TOKENIZER.decode([1, 2])], config)
        assert (row.failure, row.finish_reason) == (None, "length")
        assert (row.ids, row.stream.text) == (alone.ids, alone.text)


def test_records_and_required_texts_outlive_the_fault_of_another(monkeypatch):
    config = dataclasses.replace(GOOD, required_strings=("xyz",))
    row, bad = Row([1], config, record=True), Row([1], GOOD, 9, record=True)
    planted = failing(chooser.number, lambda origin, _: origin == bad.source)
    with monkeypatch.context() as patched:
        patched.setattr(chooser, "number", planted)
        batch = TextBatch(MODEL, TOKENIZER)
        batch.add([row, bad])
        while batch.rows:
            batch.step()
    assert bad.failure is not None
    (alone,) = generate(MODEL, TOKENIZER, ["a"], config, record_probabilities=True)
    assert TOKENIZER.decode([1]) == "a" or alone.prompt_ids != [1]
    assert [one.id for one in row.chosen] == row.ids
    assert "xyz" in row.stream.text


def test_the_fault_of_a_row_is_raised_where_one_text_is_asked_for(monkeypatch):
    monkeypatch.setattr(chooser, "reshape", failing(chooser.reshape, lambda *_: True))
    config = dataclasses.replace(GOOD, top_p=0.9)
    with pytest.raises(RuntimeError, match="planted"):
        generate(MODEL, TOKENIZER, ["abc"], config)
    with pytest.raises(RuntimeError, match="planted"):
        list(stream(MODEL, TOKENIZER, "abc", config))


@pytest.fixture(params=["kernels", "no kernels", "float64"])
def model(request, monkeypatch):
    if request.param == "no kernels":
        monkeypatch.setattr(decoding_module, "library", lambda: None)
        monkeypatch.setattr(draw_module, "library", lambda: None)
    made = built(CONFIG)
    return made.double() if request.param == "float64" else made


@pytest.mark.parametrize("temperature", TINY)
def test_a_tiny_temperature_is_greedy(model, temperature):
    greedy = dataclasses.replace(GOOD, temperature=0.0)
    for changes in ({}, {"num_samples": 3}, {"top_p": 0.9}, {"frequency_penalty": 0.5}):
        tiny = dataclasses.replace(greedy, temperature=temperature, **changes)
        wanted = generate(model, TOKENIZER, ["abc"], dataclasses.replace(greedy, **changes))
        for record in (False, True):
            found = generate(model, TOKENIZER, ["abc"], tiny, record_probabilities=record)
            assert [one.ids for one in found] == [one.ids for one in wanted]
            for token in (token for one in found for token in one.chosen):
                assert (token.sampled_log_probability, token.kept) == (0.0, 1)


@pytest.mark.parametrize("temperature", [0.0, 1e-40, 1.0])
@pytest.mark.parametrize("weight", [math.nan, math.inf])
def test_a_model_that_gives_no_numbers_is_named(model, temperature, weight):
    with torch.no_grad():
        model.head.weight[:] = weight
    for samples in (1, 3):
        config = dataclasses.replace(GOOD, temperature=temperature, num_samples=samples)
        with pytest.raises(BadInputError, match="NaN or infinite logits"):
            generate(model, TOKENIZER, ["abc"], config)
    with pytest.raises(BadInputError, match="NaN"):
        beam_search(model, TOKENIZER, "abc", 2, 3)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_bans_that_leave_no_token_are_named(model, temperature):
    a = int(TOKENIZER.encode("a")[0])
    pieces = {TOKENIZER.token_bytes(i).decode() for i in range(TOKENIZER.end_id)}
    config = dataclasses.replace(
        GOOD, temperature=temperature, logit_bias={a: 1000.0},
        banned_strings=tuple("a" + piece for piece in sorted(pieces)),
    )  # fmt: skip
    with pytest.raises(BadInputError, match="rule out every token"):
        generate(model, TOKENIZER, ["b"], config)


@pytest.mark.parametrize("bias", [math.nan, math.inf, 1e39])
def test_a_bias_that_is_no_number_is_refused(bias):
    with pytest.raises(BadInputError, match="logit_bias is"):
        SamplingConfig(logit_bias={3: bias})
