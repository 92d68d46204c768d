"""The decoder, in each of its forms, against the plain model fed the same tokens."""

import types
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_models import built, model_configs

from minitx import engine
from minitx.config import ModelConfig, SamplingConfig
from minitx.fast import decode_native
from minitx.fast import decoding as decoder_module
from minitx.fast.decode_native import NativeDecoder
from minitx.fast.decode_numpy import NumpyDecoder
from minitx.fast.decoding import decoder
from minitx.fast.library import library
from minitx.generation import Row, TextBatch
from minitx.generation.text_reader import SlotCache, TextReader, window_after_slide
from minitx.inspection.ablation import head_off
from minitx.model import KVCache
from minitx.model.transformer import Attention
from minitx.tokenizer import train_tokenizer

CONTEXT = 24
TOLERANCE = 3e-5
"""Of the largest logit, or of 1 where that is smaller: both sides round in float32."""

SMALL = ModelConfig(
    vocab_size=17, context_length=CONTEXT, n_layers=2, n_heads=2, n_kv_heads=1, head_dim=8,
    d_model=16, d_ff=40,
)  # fmt: skip

texts = st.lists(st.integers(0, 999), min_size=2 * CONTEXT, max_size=2 * CONTEXT)


def require_close(found, expected):
    assert found.shape == expected.shape
    limit = TOLERANCE * max(1.0, float(expected.abs().max()))
    assert float((found - expected).abs().max()) < limit


def without_kernels(patch):
    patch.setattr(decoder_module, "library", lambda: None)


class PlainTexts:
    """Texts fed to the plain model, each through a cache of its own."""

    def __init__(self, model):
        self.model, self.caches = model, []

    def read(self, ids):
        cache = KVCache(self.model.config, 1, CONTEXT)
        logits = self.model(torch.tensor([ids]), cache=cache, last_only=True)[0, 0]
        self.caches.append(cache)
        return logits

    def feed(self, tokens):
        return torch.stack(
            [
                self.model(torch.tensor([[token]]), cache=cache)[0, 0]
                for token, cache in zip(tokens, self.caches, strict=True)
            ]
        )

    def leave(self, index):
        last = self.caches.pop()
        if index < len(self.caches):
            self.caches[index] = last


@settings(max_examples=80, deadline=None)
@given(
    config=model_configs(CONTEXT),
    seed=st.integers(0, 2**20),
    rows=st.lists(st.tuples(texts, st.integers(1, CONTEXT)), min_size=1, max_size=9),
    leaving=st.lists(st.integers(0, 8), max_size=4),
    joining=st.integers(1, CONTEXT),
    has_kernels=st.booleans(),
    at_once=st.sampled_from([1, 7, 256]),
)
@torch.no_grad()
def test_logits_are_those_of_the_plain_model(
    config, seed, rows, leaving, joining, has_kernels, at_once
):
    """Texts of unequal lengths, which join, leave, fill the context and slide."""
    model = built(config, seed)
    rows = [([token % config.vocab_size for token in text], size) for text, size in rows]
    plain, reader = PlainTexts(model), TextReader(model)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decode_native, "_TOKENS_AT_ONCE", at_once)
        if not has_kernels:
            without_kernels(patch)
        reader.read([text[:size] for text, size in rows])
        for text, size in rows:
            plain.read(text[:size])
        going = list(rows)

        def feed(steps):
            for _ in range(steps):
                for index in reader.full_rows():
                    text, size = going[index]
                    kept = text[size - window_after_slide(CONTEXT) + 1 : size]
                    reader.slide(index, kept)
                    plain.caches[index] = KVCache(config, 1, CONTEXT)
                    if kept:
                        model(torch.tensor([kept]), cache=plain.caches[index])
                tokens = [text[size] for text, size in going]
                require_close(reader.feed(tokens), plain.feed(tokens))
                going[:] = [(text, size + 1) for text, size in going]

        feed(3)
        for index in leaving:
            if index < len(going) - 1:
                reader.cache.leave(index)
                plain.leave(index)
                last = going.pop()
                if index < len(going):
                    going[index] = last
                feed(1)
        text = rows[0][0]
        require_close(reader.read([text[:joining]])[0], plain.read(text[:joining]))
        going.append((text, joining))
        feed(4)


@torch.no_grad()
def test_the_number_of_rows_chooses_the_kernel(monkeypatch):
    model = built(SMALL)
    calls = []
    for kind in (NativeDecoder, NumpyDecoder):
        feed = kind.feed
        monkeypatch.setattr(
            kind, "feed", lambda *given, feed=feed, kind=kind: calls.append(kind) or feed(*given)
        )

    def fed(rows):
        reader = TextReader(model)
        reader.read([[1, 2, 3]] * rows)
        calls.clear()
        return reader.feed([4] * rows).clone(), list(calls)

    if library() is not None:
        one, kinds = fed(1)
        assert kinds == [NativeDecoder]
        several, kinds = fed(3)
        assert kinds == [NativeDecoder]
        torch.testing.assert_close(several[1:2], one)
    without_kernels(monkeypatch)
    one, kinds = fed(1)
    assert kinds == [NumpyDecoder]
    several, kinds = fed(3)
    assert kinds == []
    torch.testing.assert_close(several[1:2], one)


@pytest.mark.skipif(library() is None, reason="no compiled kernels")
@torch.no_grad()
def test_a_prompt_is_read_by_the_kernels_to_the_same_logits_whatever_is_beside_it(monkeypatch):
    model, prompt = built(SMALL), list(range(12))
    monkeypatch.setattr(model, "residual_stream", None)  # the model itself can't read
    kernels = decoder_module.Decoder(model)
    monkeypatch.setattr(engine, "decoder", lambda model: kernels)
    alone = TextReader(model).read([prompt])
    beside = TextReader(model).read([[3] * 20, prompt, [5]])
    assert torch.equal(beside[1:2], alone)
    few = TextReader(model).read([prompt[:3]])
    torch.testing.assert_close(few, TextReader(model).read([prompt[:3], prompt])[:1])


@pytest.mark.skipif(library() is None, reason="no compiled kernels")
@pytest.mark.parametrize("size", [1, 12])
@pytest.mark.parametrize("wrong", [-1, SMALL.vocab_size])
@torch.no_grad()
def test_a_prompt_with_what_is_no_token_is_refused(size, wrong):
    reader = TextReader(built(SMALL))
    with pytest.raises(IndexError, match="not among the 17"):
        reader.read([[1] * (size - 1) + [wrong]])


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("has_kernels", [True, False])
@torch.no_grad()
def test_a_model_that_has_diverged_says_so_in_its_logits(rows, has_kernels, monkeypatch):
    if not has_kernels:
        without_kernels(monkeypatch)
    model = built(SMALL)
    model.blocks[0].mlp.down.weight[0, 0] = float("nan")
    reader = TextReader(model)
    reader.read([[1, 2]] * rows)
    assert bool(reader.feed([3] * rows).isnan().all())


class LocalAttention(Attention):
    """Sees only the newest 3 tokens."""

    def forward(self, x, context):
        raise AssertionError("only its class matters here")


def test_what_is_not_known_to_be_the_plain_model_has_no_decoder():
    assert decoder(built(SMALL)) is not None
    assert decoder(built(SMALL).double()) is None
    assert decoder(built(SMALL).bfloat16()) is None
    ablated = built(SMALL)
    with head_off(ablated, 0, 1):
        assert decoder(ablated) is None
    assert decoder(ablated) is not None


def test_a_model_with_a_subclass_has_no_decoder():
    model = built(SMALL)
    model.blocks[1].attention = LocalAttention(SMALL, 1)
    assert decoder(model) is None


@pytest.mark.parametrize("path", ["", "blocks.0.attention", "blocks.1.mlp.down", "norm"])
@pytest.mark.parametrize("kind", ["forward", "forward_pre"])
def test_a_model_with_a_hook_has_no_decoder_while_the_hook_is_there(path, kind):
    model = built(SMALL)
    part = model.get_submodule(path)
    handle = getattr(part, f"register_{kind}_hook")(lambda *given: None)
    assert decoder(model) is None
    handle.remove()
    assert decoder(model) is not None


@pytest.mark.parametrize("path", ["blocks.0.attention", "blocks.1", "norm", "head", ""])
def test_a_model_with_a_patched_method_has_no_decoder(path):
    model = built(SMALL)
    part = model.get_submodule(path)
    part.forward = types.MethodType(type(part).forward, part)
    assert decoder(model) is None


def test_a_patched_class_has_no_decoder(monkeypatch):
    forward = Attention.forward
    monkeypatch.setattr(Attention, "forward", lambda *given: forward(*given))
    assert decoder(built(SMALL)) is None
    monkeypatch.undo()
    assert decoder(built(SMALL)) is not None


def test_a_hook_that_comes_later_is_honoured_by_the_next_prompt():
    tokenizer = train_tokenizer("abcdefghijklmn\n", "char", 0)
    model = built(SMALL)
    batch, config = TextBatch(model, tokenizer), SamplingConfig(max_new_tokens=5)
    batch.add([Row([1, 2], config)])
    batch.step()
    seen = []
    model.blocks[0].mlp.register_forward_hook(lambda *given: seen.append(1))
    batch.add([Row([1, 2], config)])
    seen.clear()
    batch.step()
    assert seen == [1]


def test_weights_that_were_written_to_are_read_anew():
    model = built(replace(SMALL, tie_embeddings=False))
    cache = SlotCache(model)
    cache.join(KVCache(SMALL, 1, 1), [0, 0])

    @torch.inference_mode()
    def fed():
        logits = engine.decoder(model).feed([1, 2], cache).clone()
        cache.truncate(0)
        return logits

    before = fed()
    assert torch.equal(before, fed())
    with torch.no_grad():
        model.head.weight.mul_(2.0)
    torch.testing.assert_close(fed(), 2 * before)
