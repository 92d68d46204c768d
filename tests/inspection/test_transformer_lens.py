"""The same figures in TransformerLens, on the same checkpoint. It brings much along, so it is no
dependency of the tests: they run where somebody has done `pip install transformer-lens`.
"""

import numpy as np
import pytest
import torch

from minitx.checkpoint.rundir import resolve_checkpoint
from minitx.inspection.ablation import ablate_for_token
from minitx.inspection.attention_maps import read_attention
from minitx.inspection.attribution import attribute
from minitx.inspection.logit_lens import read_logit_lens
from minitx.inspection.patching import Patcher
from minitx.workflows.load import open_checkpoint

lens = pytest.importorskip("transformer_lens.model_bridge")


@pytest.fixture(scope="module", params=["tiny_run", "tiny_gpt2_run"])
def both(request):
    directory = resolve_checkpoint(request.getfixturevalue(request.param))
    bridge = lens.TransformerBridge.boot_transformers(str(directory), device="cpu")
    ours = open_checkpoint(directory)
    encode = ours.tokenizer.encode
    clean = encode("3 green bottles hanging")[:12].astype(np.int64)
    return ours, bridge, clean, np.concatenate((clean[1:6], clean[:1], clean[6:]))


def logits(bridge, ids, hooks=()):
    with torch.no_grad():
        found = bridge.run_with_hooks(torch.from_numpy(ids)[None], fwd_hooks=list(hooks))
    return found[0, -1]


@pytest.fixture
def cache(both):
    _, bridge, clean, _ = both
    with torch.no_grad():
        return bridge.run_with_cache(torch.from_numpy(clean)[None])[1]


def heads_of(value, n_heads):
    """As (batch, seq, heads, width), whatever the form that the bridge has it in."""
    return value if value.dim() == 4 else value.unflatten(-1, (n_heads, -1))


def test_attention_and_lens(both, cache):
    ours, bridge, clean, _ = both
    maps = read_attention(ours.model, ours.tokenizer, clean)
    readings = read_logit_lens(ours.model, clean, k=ours.model.config.vocab_size)
    for layer in range(2):
        pattern = cache[f"blocks.{layer}.attn.hook_pattern"][0]
        np.testing.assert_allclose(maps.weights[layer], pattern, atol=1e-5)
        with torch.no_grad():
            stream = cache[f"blocks.{layer}.hook_resid_pre"]
            chances = bridge.unembed(bridge.ln_final(stream))[0, -1].softmax(-1)
        np.testing.assert_allclose(
            readings.top_probabilities[layer, -1],
            chances[torch.from_numpy(readings.top_ids[layer, -1])], atol=1e-5,
        )  # fmt: skip


def test_patching_and_ablation(both, cache):
    ours, bridge, clean, corrupted = both
    token, n_heads = 7, ours.model.config.n_heads
    found = Patcher(ours.model, clean, corrupted, token).everywhere()
    heads, mlps = ablate_for_token(ours.model, clean, token)
    whole = float(logits(bridge, clean)[token])
    assert found.clean == pytest.approx(whole, abs=1e-4)
    for layer in range(2):
        names = {"residual": "hook_resid_pre", "mlp": "hook_mlp_out", "attention": "hook_attn_out"}
        for part, name in names.items():
            key = f"blocks.{layer}.{name}"
            for at in range(len(clean)):

                def patch(value, hook, at=at, key=key):
                    value = value.clone()
                    value[:, at] = cache[key][:, at]
                    return value

                expected = float(logits(bridge, corrupted, [(key, patch)])[token])
                assert getattr(found, part)[layer, at] == pytest.approx(expected, abs=1e-4)
        key = f"blocks.{layer}.attn.hook_z"
        for head in range(n_heads):

            def swap(value, hook, head=head, key=key):
                value = value.clone()
                theirs = heads_of(cache[key], n_heads)[:, :, head]
                heads_of(value, n_heads)[:, :, head] = theirs
                return value

            def zero(value, hook, head=head):
                value = value.clone()
                heads_of(value, n_heads)[:, :, head] = 0
                return value

            expected = float(logits(bridge, corrupted, [(key, swap)])[token])
            assert found.heads[layer, head] == pytest.approx(expected, abs=1e-4)
            without = float(logits(bridge, clean, [(key, zero)])[token])
            assert heads[layer, head] == pytest.approx(without - whole, abs=1e-4)
        without = logits(
            bridge, clean, [(f"blocks.{layer}.hook_mlp_out", lambda value, hook: value * 0)]
        )
        assert mlps[layer] == pytest.approx(float(without[token]) - whole, abs=1e-4)


def test_attribution(both, cache):
    """What TransformerLens's cache says each MLP wrote, through the norm's scale that it kept."""
    ours, _, clean, _ = both
    found = {each.name: each.logit for each in attribute(ours.model, clean, 7).contributions}
    norm = ours.model.norm
    scale = cache["ln_final.hook_scale"][0, -1]
    row = ours.model.head.weight[7] * norm.gain
    for layer in range(2):
        written = cache[f"blocks.{layer}.hook_mlp_out"][0, -1]
        if hasattr(norm, "bias"):
            written = written - written.mean()
        expected = float((written / scale @ row).detach())
        assert found[f"MLP {layer}"] == pytest.approx(expected, abs=1e-4)
