"""`check_mask` passes a sound model, and finds leaks that are planted on purpose."""

import dataclasses

import pytest
import torch
from torch.nn import functional

from minitx.compute import Compute, EngineChoice
from minitx.config import ModelConfig
from minitx.engine import choose_engine, decoder
from minitx.inspection import mask_check
from minitx.inspection.mask_check import check_mask
from minitx.model import KVCache, Transformer
from minitx.model.transformer import causal_mask

CONFIG = ModelConfig(
    vocab_size=23, context_length=24, n_layers=2, n_heads=4, n_kv_heads=2, d_model=16, d_ff=24,
    head_dim=4,
)  # fmt: skip
GPT2 = dataclasses.replace(CONFIG, architecture="gpt2", n_kv_heads=4)


WAYS = (
    "whole text", "whole text, with its attention weights visible",
    "in pieces through the cache", "after rewinding the cache", "beside rows of other lengths",
)  # fmt: skip


def make_model(config=CONFIG):
    torch.manual_seed(1)
    model = Transformer(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.4)
    return model


KERNELS = choose_engine(make_model(), Compute(torch.device("cpu"), torch.float32)).engine
FASTER = decoder(make_model().eval())
ENGINES = (
    f"as it is trained, {KERNELS} engine",
    f"as it generates, {'plain' if FASTER is None else FASTER.engine} engine",
)


@pytest.mark.parametrize("config", [CONFIG, GPT2], ids=["qwen3", "gpt2"])
def test_sound_model_passes_every_way_through_it(config):
    check = check_mask(make_model(config))
    assert check.passed
    assert [path.path for path in check.paths] == [*WAYS, *ENGINES]
    assert all(path.cuts == 23 and path.logits > 20 * 23 for path in check.paths[: len(WAYS)])
    assert all(path.cuts == 8 and path.logits >= 8 for path in check.paths[len(WAYS) :])


def test_each_decoder_is_called_what_it_is(monkeypatch):
    decoding = pytest.importorskip("minitx.fast.decoding")
    for kernels, name in ((object(), "native"), (None, "NumPy (several texts: plain)")):
        monkeypatch.setattr(decoding, "library", lambda kernels=kernels: kernels)
        assert decoding.Decoder(make_model().eval()).engine == name
    path = check_mask(make_model()).paths[-1].path
    assert path in ("as it generates, NumPy (several texts: plain) engine", ENGINES[-1])


def test_what_is_checked_in_place_of_the_engine_is_said(monkeypatch):
    chosen = EngineChoice("torch-compile", "as asked")
    monkeypatch.setattr(mask_check, "choose_engine", lambda *_: chosen)
    path = check_mask(make_model()).paths[-2]
    assert path.path == "as it is trained, plain engine, in place of torch-compile"
    assert path.leak is None


def test_model_is_left_as_it_was():
    model = make_model().train()
    before = torch.random.get_rng_state()
    check_mask(model)
    assert model.training
    assert torch.random.get_rng_state().equal(before)
    assert all(parameter.grad is None for parameter in model.parameters())
    model.loss(
        torch.zeros(1, 5, dtype=torch.int64), torch.zeros(1, 5, dtype=torch.int64)
    ).backward()


def test_same_seed_same_check():
    model = make_model()
    assert check_mask(model, seed=3) == check_mask(model, seed=3)


@pytest.mark.parametrize("shape", [{"context_length": 1}, {"vocab_size": 1}])
def test_nothing_to_compare(shape):
    check = check_mask(make_model(dataclasses.replace(CONFIG, **shape)))
    assert check.passed
    assert check.paths == ()


def plant(monkeypatch, change):
    """Let attention look through a mask that `change` has spoiled."""
    sound = functional.scaled_dot_product_attention

    def spoiled(queries, keys, values, mask, dropout=0.0, is_causal=False):
        if is_causal:
            mask = causal_mask(queries.size(2), keys.size(2))
        if mask is not None:
            mask = change(mask.expand(*queries.shape[:3], keys.size(2)).clone())
        return sound(queries, keys, values, mask, dropout)

    monkeypatch.setattr(functional, "scaled_dot_product_attention", spoiled)


def off_by_one(mask):
    mask[..., :-1, 1:] |= mask[..., 1:, 1:]
    return mask


def transposed(mask):
    return mask.transpose(-1, -2) if mask.size(-1) == mask.size(-2) else mask


def opened(mask):
    return torch.ones_like(mask)


@pytest.mark.parametrize("change", [off_by_one, transposed, opened])
def test_spoiled_mask_is_found_at_the_first_layer(monkeypatch, change):
    plant(monkeypatch, change)
    check = check_mask(make_model())
    assert not check.passed
    leak = check.paths[0].leak
    assert leak.layer == 0
    assert leak.heads == (0, 1, 2, 3)
    assert leak.place == "layer 0, all heads"
    assert leak.position <= leak.cut
    assert leak.largest_change > 0


def test_hole_in_one_head_of_one_layer_is_named(monkeypatch):
    calls = []

    def hole(mask):
        calls.append(None)
        if len(calls) % 2 == 0:  # the second of two layers
            mask[:, 2] = True
        return mask

    plant(monkeypatch, hole)
    leak = check_mask(make_model()).paths[0].leak
    assert (leak.layer, leak.heads) == (1, (2,))
    assert leak.place == "layer 1, head 2"


def test_leak_of_the_kernel_alone_is_found(monkeypatch):
    def open_wide(queries, keys, values, mask, dropout=0.0, is_causal=False):
        return torch.softmax(queries @ keys.transpose(-2, -1), -1) @ values

    monkeypatch.setattr(functional, "scaled_dot_product_attention", open_wide)
    found = {path.path: path.leak is not None for path in check_mask(make_model()).paths}
    assert not found["whole text, with its attention weights visible"]
    assert found["whole text"]
    assert found["in pieces through the cache"]
    # A function that is patched is one that no kernel knows.
    assert found["as it is trained, plain engine"]


def test_leak_of_what_trains_alone_is_found(monkeypatch):
    """A loss that looks one token ahead, where the model does not."""

    def looking_ahead(model, compute, engine):
        def loss(ids, targets):
            return model.loss(ids, targets) + model.embedding.weight[ids.roll(-1, 1)].sum() * 1e-3

        return loss

    monkeypatch.setattr(mask_check, "loss_function", looking_ahead)
    leaks = {path.path: path.leak for path in check_mask(make_model()).paths}
    assert [name for name, leak in leaks.items() if leak] == [ENGINES[0]]
    assert leaks[ENGINES[0]].place == f"in what trains it, the {KERNELS} engine"


def test_leak_of_what_generates_alone_is_found(monkeypatch):
    """A decoder that looks one position beyond the end of its row."""
    sound = mask_check.TextReader.feed

    def careless(self, tokens):
        beyond = [
            layer[row, :, length : length + 1].sum()
            for layer in self.cache.keys
            for row, length in enumerate(self.cache.lengths.tolist())
        ]
        return sound(self, tokens) + torch.stack(beyond).sum()

    monkeypatch.setattr(mask_check.TextReader, "feed", careless)
    leaks = {path.path: path.leak for path in check_mask(make_model()).paths}
    assert [name for name, leak in leaks.items() if leak] == [ENGINES[1]]


def test_cache_that_forgets_one_too_few_is_found(monkeypatch):
    sound = KVCache.truncate

    class Roomy(KVCache):
        def __init__(self, config, batch_size, capacity, device, dtype):
            super().__init__(config, batch_size, capacity + 8, device, dtype)

        def truncate(self, lengths):
            sound(self, torch.minimum(lengths + 1, self.lengths))

    monkeypatch.setattr(mask_check, "KVCache", Roomy)
    monkeypatch.setattr(mask_check, "MAX_LENGTH", 24)
    longer = dataclasses.replace(CONFIG, context_length=40)
    found = {path.path: path.leak for path in check_mask(make_model(longer)).paths}
    assert found["after rewinding the cache"] is not None
    assert found["whole text"] is None


def test_row_that_sees_its_padding_is_found(monkeypatch):
    def careless(self, tokens):
        self.lengths += tokens if isinstance(tokens, int) else int(tokens.max())
        self._common = int(self.lengths[0])

    monkeypatch.setattr(KVCache, "advance", careless)
    found = {path.path: path.leak for path in check_mask(make_model()).paths}
    assert found["beside rows of other lengths"] is not None


def test_leak_before_the_layers_is_placed_there(monkeypatch):
    model = make_model()
    model.embedding.register_forward_hook(
        lambda module, inputs, out: out + out.mean(1, keepdim=True)
    )
    leak = check_mask(model).paths[0].leak
    assert leak.layer is None
    assert leak.place == "before layer 0, in the embedding"


def test_leak_in_an_mlp_is_placed_in_its_layer():
    model = make_model()
    model.blocks[0].mlp.register_forward_hook(
        lambda module, inputs, out: out + out.flip(1).cumsum(1).flip(1)
    )
    leak = check_mask(model).paths[0].leak
    assert (leak.layer, leak.heads) == (0, ())
    assert leak.place == "layer 0, outside its attention heads"


def test_leak_after_the_last_layer_is_placed_there():
    model = make_model()
    model.norm.register_forward_hook(lambda module, inputs, out: out + out.mean(1, keepdim=True))
    leak = check_mask(model).paths[0].leak
    assert leak.layer is None
    assert leak.place == "after the heads of layer 1, the last"


def test_leak_through_the_cache_is_named_with_layer_and_head(monkeypatch):
    """One head of one layer reads what lies beyond its row's length in the cache."""
    calls = []

    def hole(mask):
        calls.append(None)
        is_ragged = mask.size(2) != mask.size(3) or not bool((mask[0] == mask[-1]).all())
        if is_ragged and len(calls) % 2 == 0:  # the second of two layers, rows of the cache differ
            mask[:, 3] = True
        return mask

    plant(monkeypatch, hole)
    found = {path.path: path.leak for path in check_mask(make_model()).paths}
    assert found["whole text"] is None
    leak = found["beside rows of other lengths"]
    assert (leak.layer, leak.heads) == (1, (3,))
    assert leak.place == "layer 1, head 3"
