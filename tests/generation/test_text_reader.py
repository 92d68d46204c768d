"""Cached logits against recomputing the whole text, over random shapes; and reading one row."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minitx import engine
from minitx.config import ModelConfig, SamplingConfig
from minitx.generation import Row, TextBatch, generate
from minitx.generation.text_reader import TextReader, window_after_slide
from minitx.model import Transformer
from minitx.tokenizer import train_tokenizer

CONTEXT, VOCAB = 20, 17


@st.composite
def models(draw):
    gpt2 = draw(st.booleans())
    heads = draw(st.sampled_from([1, 2, 4]))
    kv = heads if gpt2 else draw(st.sampled_from([n for n in (1, 2, 4) if heads % n == 0]))
    head_dim = draw(st.sampled_from([2, 4, 6]))
    config = ModelConfig(
        vocab_size=VOCAB, context_length=CONTEXT, n_layers=draw(st.integers(1, 3)), n_heads=heads,
        n_kv_heads=kv, head_dim=head_dim, d_ff=draw(st.sampled_from([5, 24])),
        d_model=heads * head_dim if gpt2 else draw(st.sampled_from([6, 12])),
        architecture="gpt2" if gpt2 else "qwen3", tie_embeddings=draw(st.booleans()),
    )  # fmt: skip
    torch.manual_seed(draw(st.integers(0, 2**20)))
    model = Transformer(config).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.4)
    return model


texts = st.lists(st.integers(0, VOCAB - 1), min_size=CONTEXT, max_size=CONTEXT)


@settings(max_examples=60, deadline=None)
@given(
    model=models(),
    rows=st.lists(st.tuples(texts, st.integers(1, CONTEXT)), min_size=1, max_size=3),
)
@torch.inference_mode()
def test_cached_logits_are_the_recomputed_ones_at_every_position(model, rows):
    """Prompts of unequal lengths; rows that are full leave, and the last is read by itself."""
    reader = TextReader(model)
    logits = reader.read([text[:size] for text, size in rows])
    going = [(model(torch.tensor([text]))[0], text, size) for text, size in rows]
    while True:
        expected = torch.stack([whole[size - 1] for whole, _, size in going])
        assert float((logits - expected).abs().max()) < 1e-10
        for place in reversed(range(len(going))):
            if going[place][2] == CONTEXT:
                reader.cache.leave(place)
                last = going.pop()
                if place < len(going):
                    going[place] = last
        if not going:
            return
        logits = reader.feed([text[size] for _, text, size in going])
        going = [(whole, text, size + 1) for whole, text, size in going]


@settings(max_examples=20, deadline=None)
@given(model=models(), text=texts, more=texts)
@torch.inference_mode()
def test_after_a_slide_logits_are_those_of_the_newest_window(model, text, more):
    reader = TextReader(model)
    reader.read([text])
    assert reader.full_rows() == [0]
    kept = window_after_slide(CONTEXT) - 1
    reader.slide(0, text[-kept:])
    window = text[-kept:]
    for token in more[: CONTEXT - kept]:
        window = [*window, token]
        expected = model(torch.tensor([window]))[:, -1]
        assert float((reader.feed([token]) - expected).abs().max()) < 1e-10


@torch.inference_mode()
def test_the_engine_is_asked_for_a_decoder_at_each_prompt(monkeypatch):
    """What came to be, a hook for example, is honoured from then on."""
    fed = []

    class Decoder:
        def read(self, texts, cache):
            return None  # leaves it to the model

        def feed(self, tokens, cache):
            fed.append(tokens)
            return torch.zeros(len(tokens), VOCAB)

    asked = []
    decoders = [None, Decoder()]
    monkeypatch.setattr(engine, "decoder", lambda model: asked.append(1) or decoders.pop(0))
    model = small()
    reader = TextReader(model)
    reader.read([[1, 2]])
    expected = model(torch.tensor([[1, 2, 3]]))[:, -1]
    torch.testing.assert_close(reader.feed([3]), expected)
    reader.read([[1]])
    assert not bool(reader.feed([4, 5]).any())
    assert fed == [[4, 5]]


@pytest.mark.parametrize("rows", [1, 3, 40])
@torch.inference_mode()
def test_the_cache_begins_with_a_line_of_the_processor_however_it_grows(rows):
    reader = TextReader(small())
    reader.read([[1, 2]] * rows)
    for size in (3, CONTEXT):
        reader.cache.reserve(size)
        assert reader.cache.store.data_ptr() % 64 == 0


def small(**changes):
    torch.manual_seed(3)
    values = {
        "vocab_size": VOCAB, "context_length": CONTEXT, "n_layers": 2, "n_heads": 2,
        "n_kv_heads": 1, "d_model": 16, "d_ff": 40, "head_dim": 8,
    }  # fmt: skip
    return Transformer(ModelConfig(**(values | changes))).eval()


# Rows that join and leave


def test_a_row_says_the_same_whoever_comes_and_goes():
    tokenizer = train_tokenizer("abcdefghijklmno\n", "char", 0)
    model = small(vocab_size=tokenizer.vocab_size).double()
    settings_of = [
        SamplingConfig(temperature=1.0, max_new_tokens=40, seed=1),
        SamplingConfig(temperature=0.0, max_new_tokens=7),
        SamplingConfig(temperature=1.3, top_k=4, max_new_tokens=30, frequency_penalty=0.5, seed=2),
        SamplingConfig(temperature=1.0, max_new_tokens=25, banned_strings=("a",), seed=3),
        SamplingConfig(temperature=1.0, max_new_tokens=30, logit_bias={3: 2.0}, seed=4),
    ]
    prompts = ["abc", "a", "hello".replace("l", "k"), "mnomno", "b\n"]
    rows = [
        Row(tokenizer.encode(prompt).tolist(), config)
        for prompt, config in zip(prompts, settings_of, strict=True)
    ]
    stranger = Row([1], SamplingConfig(max_new_tokens=500))
    batch = TextBatch(model, tokenizer)
    batch.add([rows[0], stranger])
    for row in rows[1:]:
        for _ in range(3):
            batch.step()
        batch.add([row])
    batch.remove(stranger)
    batch.remove(stranger)
    while batch.rows:
        batch.step()
    assert stranger.finish_reason is None
    for row, prompt, config in zip(rows, prompts, settings_of, strict=True):
        alone = generate(model, tokenizer, [prompt], config)[0]
        assert (row.ids, row.stream.text) == (alone.ids, alone.text)
        assert row.finish_reason == "length"
    assert batch.add([]) == []
    assert batch.step() == []


def test_a_batch_that_is_cleared_goes_on():
    tokenizer = train_tokenizer("abcdefghijklmno\n", "char", 0)
    model = small(vocab_size=tokenizer.vocab_size)
    batch = TextBatch(model, tokenizer)
    batch.add([Row([1, 2], SamplingConfig(max_new_tokens=9))])
    batch.clear()
    assert not batch.rows
    row = Row([1, 2], SamplingConfig(max_new_tokens=1))
    assert [piece.finish_reason for piece in batch.add([row])] == ["length"]
    assert not batch.rows
