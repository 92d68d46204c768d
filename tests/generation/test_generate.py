import dataclasses
import itertools
import math

import pytest
import torch

from minitx.config import ModelConfig, SamplingConfig
from minitx.errors import BadInputError
from minitx.generation import generate, stream
from minitx.generation.filters import draw, number, reshape, source
from minitx.generation.generate_text import beam_search
from minitx.generation.text_reader import TextReader, window_after_slide
from minitx.model import Transformer
from minitx.tokenizer import train_tokenizer
from minitx.workflows.generate import in_batches
from minitx.workflows.load import load

TEXT = "abcdefgh ijklmn\nopqrst uvwxyz.\n" * 4
TOKENIZER = train_tokenizer(TEXT, "char", 0)
BPE = train_tokenizer("été, naïve, smörgåsbord 😀😃 " * 9 + TEXT, "bpe", 290)
CONFIG = ModelConfig(
    vocab_size=TOKENIZER.vocab_size, context_length=32, n_layers=2, n_heads=2, n_kv_heads=1,
    d_model=12, d_ff=20, head_dim=6,
)  # fmt: skip


def make_model(dtype=torch.float64, tokenizer=TOKENIZER, **changes):
    torch.manual_seed(4)
    model = Transformer(dataclasses.replace(CONFIG, vocab_size=tokenizer.vocab_size, **changes)).to(
        dtype
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.4)
    return model.eval()


MODEL = make_model()
GPT2 = make_model(architecture="gpt2", n_kv_heads=2)


def by_recomputing(model, tokenizer, prompt, config, sample=0):
    """The same text without a cache: every step reads the whole window anew."""
    context = model.config.context_length
    prompt_ids = tokenizer.encode(prompt).tolist()
    ids, window = [], list(prompt_ids)
    for position in range(config.max_new_tokens):
        if position:
            if len(window) == context:
                window = window[len(window) - window_after_slide(context) + 1 :]
            window.append(ids[-1])
        with torch.no_grad():
            logits = model(torch.tensor([window]))[:, -1]
        for silent in {tokenizer.unknown_id, tokenizer.end_id} - {None}:
            logits[:, silent] = -math.inf
        logits = reshape(logits, config)
        if config.temperature == 0:
            ids.append(int(logits.argmax()))
        else:
            ids += draw(logits, [number(source(config.seed, sample), position)])
    return ids


@pytest.mark.parametrize("model", [MODEL, GPT2], ids=["qwen3", "gpt2"])
@pytest.mark.parametrize("prompt", ["a", "abc ijk", TEXT[:32]])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_cached_text_is_the_recomputed_one_past_the_context_too(model, prompt, temperature):
    """90 tokens with a context of 32: the window slides several times, by the documented rule."""
    config = SamplingConfig(temperature=temperature, max_new_tokens=90, seed=5)
    found = generate(model, TOKENIZER, [prompt], config)[0]
    assert found.ids == by_recomputing(model, TOKENIZER, prompt, config)
    assert found.text == TOKENIZER.decode(found.ids)
    assert (found.finish_reason, found.prompt) == ("length", prompt)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_same_seed_same_text_whatever_the_batch(dtype):
    model = make_model(dtype)
    prompts = ["a", "hello there".replace("h", "b"), TEXT[:32], "xyz"]
    config = SamplingConfig(temperature=1.0, max_new_tokens=50, num_samples=3, seed=9)
    together = generate(model, TOKENIZER, prompts, config)
    assert len(together) == 12
    for place, prompt in enumerate(prompts):
        alone = generate(model, TOKENIZER, [prompt], config, first=place)
        assert [one.ids for one in alone] == [
            one.ids for one in together[3 * place : 3 * place + 3]
        ]
    single = dataclasses.replace(config, num_samples=1)
    assert generate(model, TOKENIZER, ["a"], single)[0].ids == together[0].ids
    assert together[0].ids != together[1].ids


def test_more_rows_than_one_batch(monkeypatch):
    config = SamplingConfig(max_new_tokens=5, num_samples=7)
    whole = generate(MODEL, TOKENIZER, ["a", "b"], config)
    monkeypatch.setattr("minitx.generation.generate_text.ROWS_AT_ONCE", 3)
    assert [one.ids for one in generate(MODEL, TOKENIZER, ["a", "b"], config)] == [
        one.ids for one in whole
    ]


def test_each_text_of_a_list_draws_its_own_by_its_position():
    config = SamplingConfig(temperature=1.0, max_new_tokens=30, seed=9)
    listed = generate(MODEL, TOKENIZER, ["abc"] * 4, config)
    sampled = generate(MODEL, TOKENIZER, ["abc"], dataclasses.replace(config, num_samples=4))
    assert len({one.text for one in listed}) == 4
    assert [one.text for one in listed] == [one.text for one in sampled]
    assert [one.sample for one in listed] == [0] * 4
    assert [one.sample for one in sampled] == [0, 1, 2, 3]


def test_a_long_list_is_one_list_however_it_is_cut(tiny_run):
    model = load(tiny_run, device="cpu")
    config = SamplingConfig(temperature=3.0, max_new_tokens=12, seed=9)
    cut = [one.text for one in in_batches(model, ["1 green"] * 9, config, size=4)]
    assert cut == [one.text for one in model.sample(["1 green"] * 9, config)]
    assert len(set(cut)) == 9


def test_another_seed_is_another_text():
    texts = {
        generate(MODEL, TOKENIZER, ["a"], SamplingConfig(seed=seed, max_new_tokens=30))[0].text
        for seed in range(5)
    }
    assert len(texts) == 5


def test_stream_gives_the_same_text():
    config = SamplingConfig(max_new_tokens=40)
    pieces = list(stream(MODEL, TOKENIZER, "abc", config))
    assert len(pieces) > 30
    assert "".join(pieces) == generate(MODEL, TOKENIZER, ["abc"], config)[0].text


def test_stop_string_ends_each_row_by_itself():
    config = SamplingConfig(temperature=1.0, max_new_tokens=60, num_samples=8)
    free = generate(MODEL, TOKENIZER, ["abc"], config)
    stop = free[0].text[20:22]
    stopped = generate(MODEL, TOKENIZER, ["abc"], dataclasses.replace(config, stop_strings=(stop,)))
    for one, other in zip(stopped, free, strict=True):
        place = other.text.find(stop)
        assert one.text == (other.text[:place] if place >= 0 else other.text)
        assert one.finish_reason == ("stop" if place >= 0 else "length")
    assert stopped[0].finish_reason == "stop"


def test_no_stop_before_min_new_tokens():
    free = generate(MODEL, TOKENIZER, ["abc"], SamplingConfig(max_new_tokens=60))[0]
    config = SamplingConfig(
        max_new_tokens=60, stop_strings=tuple(sorted(set(free.text))), min_new_tokens=10
    )
    found = generate(MODEL, TOKENIZER, ["abc"], config)[0]
    assert len(found.ids) == 10
    assert found.text == free.text[:9]


@pytest.mark.parametrize("tokenizer", [TOKENIZER, BPE], ids=["char", "bpe"])
def test_banned_strings_never_appear(tokenizer):
    model = make_model(tokenizer=tokenizer)
    config = SamplingConfig(temperature=1.5, max_new_tokens=80, num_samples=4)
    free = generate(model, tokenizer, ["abc"], config)
    # Half characters show as U+FFFD, which no token says.
    texts = [one.text.replace("\ufffd", "") for one in free]
    banned = (texts[0][5:7], texts[1][8:9], texts[2][3:6])
    assert any(string in text for string in banned for text in texts)
    found = generate(model, tokenizer, ["abc"], dataclasses.replace(config, banned_strings=banned))
    for one in found:
        assert not any(string in one.text for string in banned)


def test_required_strings_appear():
    config = SamplingConfig(
        max_new_tokens=40, required_strings=("zyx", "wvu"), stop_strings=("a", "b", "c"),
        num_samples=5, temperature=1.2,
    )  # fmt: skip
    for one in generate(MODEL, TOKENIZER, ["abc"], config):
        assert "zyx" in one.text
        assert "wvu" in one.text
        assert len(one.ids) <= 40


def test_penalties_and_bias_act():
    z = int(TOKENIZER.encode("z")[0])
    biased = SamplingConfig(max_new_tokens=10, logit_bias={z: 100.0})
    assert generate(MODEL, TOKENIZER, ["a"], biased)[0].text == "z" * 10
    tired = dataclasses.replace(biased, frequency_penalty=60.0)
    assert generate(MODEL, TOKENIZER, ["a"], tired)[0].text.count("z") < 5
    other = dataclasses.replace(biased, presence_penalty=99.0, repetition_penalty=1.5)
    assert generate(MODEL, TOKENIZER, ["z"], other)[0].text != "z" * 10


def test_unknown_token_is_never_said():
    assert TOKENIZER.unknown_id is not None
    config = SamplingConfig(temperature=5.0, max_new_tokens=200)
    assert TOKENIZER.unknown_id not in generate(MODEL, TOKENIZER, ["a"], config)[0].ids


def test_records_are_exact():
    config = SamplingConfig(temperature=0.7, top_k=5, max_new_tokens=6)
    one = generate(MODEL, TOKENIZER, ["abc"], config, record_probabilities=True)[0]
    ids = torch.tensor([one.prompt_ids + one.ids])
    with torch.no_grad():
        own = MODEL(ids)[0, len(one.prompt_ids) - 1 : -1].log_softmax(-1)
    for row, chosen in zip(own, one.chosen, strict=True):
        assert chosen.log_probability == pytest.approx(float(row[chosen.id]), abs=1e-9)
        assert chosen.entropy == pytest.approx(float(-(row.exp() * row).sum()), abs=1e-9)
        assert chosen.kept == 5
        assert len(chosen.alternatives) == 5
        assert chosen.alternatives[0][0] == int(row.argmax())
        row = row.clone()
        row[[TOKENIZER.unknown_id, TOKENIZER.end_id]] = -math.inf
        drawn = (row / 0.7).topk(5)
        place = drawn.indices.tolist().index(chosen.id)
        expected = float(drawn.values.log_softmax(-1)[place])
        assert chosen.sampled_log_probability == pytest.approx(expected, abs=1e-9)


def test_times_are_told():
    one = generate(MODEL, TOKENIZER, ["abc"], SamplingConfig(max_new_tokens=6))[0]
    assert 0 < one.seconds_to_first_token < one.seconds


def test_model_keeps_its_mode():
    model = make_model().train()
    generate(model, TOKENIZER, ["abc"], SamplingConfig(max_new_tokens=2))
    assert model.training
    list(stream(model, TOKENIZER, "abc", SamplingConfig(max_new_tokens=2)))
    assert model.training


@pytest.mark.parametrize(
    ("prompt", "config", "told"),
    [
        ("", SamplingConfig(), "prompt is empty"),
        (TEXT[:33], SamplingConfig(), "33 tokens, and the context of this model is 32"),
        ("É", SamplingConfig(), "never saw 'É'"),
        ("a", SamplingConfig(logit_bias={-1: 1.0}), "token -1"),
        ("a", SamplingConfig(required_strings=("abcdef",), max_new_tokens=5), "6 tokens"),
        ("a", SamplingConfig(banned_strings=tuple(set(TEXT) | {"\ufffd"})), "Ban less"),
    ],
)
def test_what_cannot_be_done_is_told_before_anything_is_said(prompt, config, told):
    with pytest.raises(BadInputError, match=told):
        generate(MODEL, TOKENIZER, [prompt], config)
    with pytest.raises(BadInputError, match=told):
        stream(MODEL, TOKENIZER, prompt, config)


def test_top_k_above_the_vocabulary_cuts_nothing():
    config = SamplingConfig(temperature=1.0, max_new_tokens=30)
    cut = dataclasses.replace(config, top_k=TOKENIZER.vocab_size + 9)
    for model in (MODEL, make_model(torch.float32)):
        found = generate(model, TOKENIZER, ["abc"], cut, record_probabilities=True)
        assert found[0].ids == generate(model, TOKENIZER, ["abc"], config)[0].ids


# Beam search


def log_probability(model, prompt, text):
    ids = torch.tensor([prompt + list(text)])
    with torch.no_grad():
        rows = model(ids)[0, len(prompt) - 1 : -1].double().log_softmax(-1)
    return sum(float(row[token]) for row, token in zip(rows, text, strict=True))


def test_wide_beam_finds_the_likeliest_of_all_texts():
    tokenizer = train_tokenizer("abcd", "char", 0)
    model = make_model(tokenizer=tokenizer)
    prompt = tokenizer.encode("ab").tolist()
    everything = {
        text: log_probability(model, prompt, text) for text in itertools.product(range(4), repeat=3)
    }
    expected = sorted(everything, key=everything.get, reverse=True)[:5]
    found = beam_search(model, tokenizer, "ab", 64, 3)
    assert [tuple(one.ids) for one in found[:5]] == expected
    assert len(found) == 64
    assert [one.sample for one in found] == list(range(64))


def test_one_beam_is_greedy():
    greedy = generate(MODEL, TOKENIZER, ["abc"], SamplingConfig(temperature=0, max_new_tokens=20))
    assert beam_search(MODEL, TOKENIZER, "abc", 1, 20)[0].ids == greedy[0].ids


def test_beam_search_stays_in_the_context():
    with pytest.raises(BadInputError, match=r"3 \+ 30 tokens exceeds the context of 32"):
        beam_search(MODEL, TOKENIZER, "abc", 2, 30)
    with pytest.raises(BadInputError, match="beams is 0"):
        beam_search(MODEL, TOKENIZER, "abc", 0, 3)


@pytest.mark.parametrize("context", [8, 32])
def test_past_the_context_a_pass_is_paid_for_each_quarter_of_new_tokens(context, monkeypatch):
    model = make_model(context_length=context)
    passes = []
    slide = TextReader.slide

    def noted(self, row, text):
        passes.append(len(text))
        slide(self, row, text)

    monkeypatch.setattr(TextReader, "slide", noted)
    for quarters in (0, 1, 5):
        passes.clear()
        # The prompt fills the context, and the last token is drawn and not fed. The token that
        # did not fit is fed after the pass.
        new_tokens = 1 + quarters * (context // 4 + 1)
        generate(model, TOKENIZER, ["a" * context], SamplingConfig(max_new_tokens=new_tokens))
        assert passes == quarters * [context - context // 4 - 1]
