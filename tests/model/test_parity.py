"""Our model and transformers' on the same weights: logits, loss and every gradient."""

import dataclasses

import pytest
import torch
from foreign_models import CLASSES
from torch.nn import functional as F
from transformers.models.llama import modeling_llama
from transformers.models.qwen2 import modeling_qwen2
from transformers.models.qwen3 import modeling_qwen3

from minitx.checkpoint.huggingface import config_to_huggingface
from minitx.checkpoint.weights import model_tensors
from minitx.config import ModelConfig
from minitx.model import Trace, Transformer


def qwen3(seed):
    """A random shape."""
    pick = torch.Generator().manual_seed(seed)

    def one_of(*values):
        return values[int(torch.randint(len(values), (1,), generator=pick))]

    heads = one_of(1, 2, 4, 6)
    return ModelConfig(
        vocab_size=one_of(7, 33, 64),
        context_length=one_of(8, 24),
        n_layers=one_of(1, 2, 3),
        n_heads=heads,
        n_kv_heads=one_of(*(n for n in (1, 2, 3, 6) if heads % n == 0)),
        d_model=one_of(8, 20, 24),
        d_ff=one_of(8, 24, 40),
        head_dim=one_of(2, 4, 10),
        tie_embeddings=one_of(True, False),
        rope_theta=one_of(100.0, 10_000.0, 1e6),
        norm_eps=one_of(1e-6, 1e-3),
    )


def gpt2(seed):
    config = qwen3(seed)
    return dataclasses.replace(
        config,
        architecture="gpt2",
        n_kv_heads=config.n_heads,
        head_dim=4,
        d_model=4 * config.n_heads,
    )


def llama(seed):
    config = qwen3(seed)
    return dataclasses.replace(config, architecture="llama", d_model=4 * config.n_heads)


def qwen2(seed):
    return dataclasses.replace(qwen3(seed), architecture="qwen2")


def pair(config, dtype, seed=0):
    """The same weights in both, larger than at the start of training so that all matters."""
    torch.manual_seed(seed)
    ours = Transformer(config).to(dtype)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    values = config_to_huggingface(config)
    for key in ("architectures", "model_type", "dtype", "torch_dtype"):
        values.pop(key)
    config_kind, kind = CLASSES[config.architecture]
    theirs = kind(config_kind(**values, attn_implementation="eager"))
    theirs = theirs.to(dtype).eval()
    weights = dict(model_tensors(ours))
    if config.tie_embeddings:
        weights["lm_head.weight"] = next(iter(weights.values()))
    missing, unexpected = theirs.load_state_dict(weights, strict=False)
    assert not unexpected
    assert all("rotary" in name or ".attn.bias" in name for name in missing)
    return ours.eval(), theirs


def gradients(model):
    """Gradients of our parameters by the names that transformers gives them."""
    copy = Transformer(model.config).to(next(model.parameters()).dtype)
    if model.config.tie_embeddings:
        copy.head.weight = copy.embedding.weight
    with torch.no_grad():
        for mine, source in zip(copy.parameters(), model.parameters(), strict=True):
            mine.copy_(source.grad)
    return model_tensors(copy)


class InDouble:
    """`torch` for transformers' models, which compute norms and softmax in float32 whatever the
    weights are: with this in its place, they compute them in double precision too."""

    float32 = torch.float64

    def __getattr__(self, name):
        return getattr(torch, name)


class RotaryInDouble(torch.nn.Module):
    """The angles of transformers' rotary embedding, which it computes in float32."""

    def __init__(self, config):
        super().__init__()
        self.config = config

    def forward(self, x, position_ids):
        pairs = self.config.head_dim // 2
        steps = torch.arange(pairs, dtype=torch.float64) / pairs
        angles = position_ids[..., None].double() * self.config.rope_theta**-steps
        angles = torch.cat((angles, angles), dim=-1)
        return angles.cos(), angles.sin()


@pytest.fixture
def in_double(monkeypatch):
    def change(theirs, config):
        if config.architecture != "gpt2":
            modules = {"qwen3": modeling_qwen3, "qwen2": modeling_qwen2, "llama": modeling_llama}
            monkeypatch.setattr(modules[config.architecture], "torch", InDouble())
            theirs.model.rotary_emb = RotaryInDouble(config)

    return change


CASES = [(make, seed) for make in (qwen3, gpt2) for seed in range(12)]
CASES += [(make, seed) for make in (llama, qwen2) for seed in range(4)]
IDS = [f"{make.__name__}-{seed}" for make, seed in CASES]


@pytest.mark.parametrize("form", ["sdpa", "eager"])
@pytest.mark.parametrize(("make", "seed"), CASES, ids=IDS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_logits_loss_and_every_gradient(make, seed, dtype, tolerance, form, in_double):
    config = make(seed)
    ours, theirs = pair(config, dtype, seed)
    if dtype == torch.float64:
        in_double(theirs, config)
    ids = torch.randint(config.vocab_size, (3, config.context_length))
    labels = ids.clone()
    labels[0, 3:5] = -100
    targets = torch.full_like(labels, -100)
    targets[:, :-1] = labels[:, 1:]

    our_logits = ours(ids, trace=Trace() if form == "eager" else None)
    torch.testing.assert_close(our_logits, theirs(ids).logits, atol=tolerance, rtol=tolerance)
    if form == "sdpa":
        our_loss = ours.loss(ids, targets)
    else:
        our_loss = F.cross_entropy(our_logits.flatten(0, 1), targets.flatten())
    if dtype == torch.float32:
        their_loss = theirs(ids, labels=labels).loss
    else:
        # Theirs turns logits to float32 first.
        logits = theirs(ids).logits[:, :-1].flatten(0, 1)
        their_loss = F.cross_entropy(logits, labels[:, 1:].flatten())
    torch.testing.assert_close(our_loss, their_loss, atol=tolerance, rtol=tolerance)
    our_loss.backward()
    their_loss.backward()
    found = gradients(ours)
    checked = 0
    for name, parameter in theirs.named_parameters():
        torch.testing.assert_close(
            found[name], parameter.grad, atol=tolerance, rtol=tolerance, msg=lambda m, n=name: n + m
        )
        checked += 1
    assert checked == len(found)


def test_attention_weights_equal_transformers(in_double):
    config = qwen3(3)
    ours, theirs = pair(config, torch.float64)
    in_double(theirs, config)
    ids = torch.randint(config.vocab_size, (2, config.context_length))
    trace = Trace()
    ours(ids, trace=trace)
    expected = theirs(ids, output_attentions=True, output_hidden_states=True)
    for mine, reference in zip(trace.attention, expected.attentions, strict=True):
        torch.testing.assert_close(mine, reference, atol=1e-10, rtol=1e-10)
    for mine, reference in zip(trace.residual[:-1], expected.hidden_states[:-1], strict=True):
        torch.testing.assert_close(mine, reference, atol=1e-10, rtol=1e-10)
