"""Attribution, patching and ablation of one token against transformers' model on the same weights,
with hooks of its own.
"""

import dataclasses
from contextlib import ExitStack

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from random_models import built, model_configs
from small_models import GPT2, SHAPE
from transformers import GPT2Config, GPT2LMHeadModel, Qwen3Config, Qwen3ForCausalLM

from minitx.checkpoint.huggingface import config_to_huggingface
from minitx.checkpoint.weights import model_tensors
from minitx.errors import BadInputError
from minitx.inspection.ablation import ablate_for_token
from minitx.inspection.attribution import attribute
from minitx.inspection.forward_steps import forward_steps
from minitx.inspection.interventions import Change, logits_after, record
from minitx.inspection.patching import Patcher

CLEAN = np.array([3, 1, 4, 1, 5, 9, 2])
CORRUPTED = np.array([3, 8, 4, 1, 5, 7, 2])
SHAPES = {"qwen3": dataclasses.replace(SHAPE, n_kv_heads=2), "gpt2": GPT2}


class Theirs:
    """The same weights in transformers, in float64, whose parts can be read and replaced."""

    def __init__(self, ours):
        config = ours.config
        values = config_to_huggingface(config)
        for key in ("architectures", "model_type", "dtype", "torch_dtype"):
            values.pop(key)
        self.is_gpt2 = config.architecture == "gpt2"
        config_class, kind = (
            (GPT2Config, GPT2LMHeadModel) if self.is_gpt2 else (Qwen3Config, Qwen3ForCausalLM)
        )
        self.model = kind(config_class(**values, attn_implementation="eager"))
        weights = dict(model_tensors(ours))
        if config.tie_embeddings:
            weights["lm_head.weight"] = next(iter(weights.values()))
        self.model.load_state_dict(weights, strict=False)
        self.model.double().eval()
        self.width = config.head_dim
        self.blocks = self.model.transformer.h if self.is_gpt2 else self.model.model.layers

    def place(self, part, layer):
        """The module, and whether its input or its output is the part."""
        block = self.blocks[layer]
        attention = block.attn if self.is_gpt2 else block.self_attn
        return {
            "residual": (block, "in"),
            "heads": (attention.c_proj if self.is_gpt2 else attention.o_proj, "in"),
            "attention": (attention.c_proj if self.is_gpt2 else attention.o_proj, "out"),
            "mlp": (block.mlp, "out"),
        }[part]

    def run(self, ids, edit=None, part=None, layer=None):
        """Logits after the last token, and the part where `edit` changed it."""
        seen = []
        with ExitStack() as hooks, torch.no_grad():
            if part is not None:
                module, side = self.place(part, layer)

                def before(_, args):
                    value = args[0].clone()
                    seen.append(value.clone())
                    if edit is not None:
                        edit(value[0])
                    return (value, *args[1:])

                def after(_, args, out):
                    value = out.clone()
                    seen.append(value.clone())
                    if edit is not None:
                        edit(value[0])
                    return value

                hook = (
                    module.register_forward_pre_hook(before)
                    if side == "in"
                    else module.register_forward_hook(after)
                )
                hooks.enter_context(hook)
            logits = self.model(torch.from_numpy(ids)[None]).logits[0, -1]
        return logits, (seen[0][0] if seen else None)


@pytest.fixture(scope="module", params=["qwen3", "gpt2"])
def both(request):
    ours = built(dataclasses.replace(SHAPES[request.param], dropout=0.0))
    return ours, Theirs(ours)


@pytest.mark.parametrize("part", ["residual", "attention", "mlp"])
def test_patching_a_position_is_what_it_is_by_hand(both, part):
    ours, theirs = both
    patching = Patcher(ours, CLEAN, CORRUPTED, token=11, against=5).everywhere()
    for layer in range(2):
        _, clean = theirs.run(CLEAN, part=part, layer=layer)
        for at in range(len(CLEAN)):

            def edit(value, clean=clean, at=at):
                value[at] = clean[at]

            logits, _ = theirs.run(CORRUPTED, edit, part, layer)
            expected = float(logits[11] - logits[5])
            assert getattr(patching, part)[layer, at] == pytest.approx(expected, abs=2e-5)
    for name, ids in (("clean", CLEAN), ("corrupted", CORRUPTED)):
        logits, _ = theirs.run(ids)
        assert getattr(patching, name) == pytest.approx(float(logits[11] - logits[5]), abs=2e-5)


def test_patching_a_head_is_what_it_is_by_hand(both):
    ours, theirs = both
    patcher = Patcher(ours, CLEAN, CORRUPTED, token=11)
    patching = patcher.everywhere()
    for layer in range(2):
        _, clean = theirs.run(CLEAN, part="heads", layer=layer)
        for head in range(4):
            columns = slice(head * theirs.width, (head + 1) * theirs.width)
            for at in (None, 1, 5):

                def edit(value, clean=clean, at=at, columns=columns):
                    rows = slice(None) if at is None else at
                    value[rows, columns] = clean[rows, columns]

                logits, _ = theirs.run(CORRUPTED, edit, "heads", layer)
                by_position = patcher.head_by_position(layer, head)
                found = patching.heads[layer, head] if at is None else by_position[at]
                assert found == pytest.approx(float(logits[11]), abs=2e-5)


def test_ablating_for_a_token_is_what_it_is_by_hand(both):
    ours, theirs = both
    heads, mlps = ablate_for_token(ours, CLEAN, 11)
    whole = float(theirs.run(CLEAN)[0][11])
    for layer in range(2):
        logits, _ = theirs.run(CLEAN, lambda value: value.zero_(), "mlp", layer)
        assert mlps[layer] == pytest.approx(float(logits[11]) - whole, abs=2e-5)
        for head in range(4):
            columns = slice(head * theirs.width, (head + 1) * theirs.width)

            def edit(value, columns=columns):
                value[:, columns] = 0

            logits, _ = theirs.run(CLEAN, edit, "heads", layer)
            assert heads[layer, head] == pytest.approx(float(logits[11]) - whole, abs=2e-5)


def test_attribution_is_what_it_is_by_hand(both):
    """The last norm's scale as it was, taken by a hook; each part through it and the head."""
    ours, theirs = both
    found = {each.name: each.logit for each in attribute(ours, CLEAN, 11).contributions}
    norm = theirs.model.transformer.ln_f if theirs.is_gpt2 else theirs.model.model.norm
    seen = []
    with norm.register_forward_pre_hook(lambda _, args: seen.append(args[0][0, -1])):
        theirs.run(CLEAN)
    stream = seen[0]
    row = theirs.model.lm_head.weight[11]
    if theirs.is_gpt2:
        scale = (stream.var(correction=0) + norm.eps).sqrt()
    else:
        scale = (stream.pow(2).mean() + norm.variance_epsilon).sqrt()

    def logit(written):
        if theirs.is_gpt2:
            written = written - written.mean()
        return float(((written / scale * norm.weight) @ row).detach())

    for layer in range(2):
        _, mixed = theirs.run(CLEAN, part="heads", layer=layer)
        module, _ = theirs.place("heads", layer)
        weight = module.weight if theirs.is_gpt2 else module.weight.T
        for head in range(4):
            columns = slice(head * theirs.width, (head + 1) * theirs.width)
            written = mixed[-1, columns] @ weight[columns]
            assert found[f"head {layer}.{head}"] == pytest.approx(logit(written), abs=1e-5)
        _, mlp = theirs.run(CLEAN, part="mlp", layer=layer)
        assert found[f"MLP {layer}"] == pytest.approx(logit(mlp[-1]), abs=1e-5)
    _, first = theirs.run(CLEAN, part="residual", layer=0)
    start = found["embedding"] + found.get("position", 0.0)
    assert start == pytest.approx(logit(first[-1]), abs=1e-5)
    biases = {name for name in found if "bias" in name}
    expected = {"norm bias", "attention bias 0", "attention bias 1"} if theirs.is_gpt2 else set()
    assert biases == expected
    assert sum(found.values()) == pytest.approx(float(theirs.run(CLEAN)[0][11]), abs=1e-4)


@settings(max_examples=25, deadline=None)
@given(model_configs(9))
def test_the_parts_of_any_model_sum_to_the_logit(config):
    model = built(config)
    ids = np.random.default_rng(1).integers(0, config.vocab_size, 9)
    for length in (1, 9):
        found = attribute(model, ids[:length], config.vocab_size - 1)
        size = sum(abs(each.logit) for each in found.contributions)
        assert found.total == pytest.approx(found.logit, abs=1e-4 + 1e-6 * size)


@settings(max_examples=25, deadline=None)
@given(model_configs(9))
def test_a_patch_of_all_that_differs_is_the_clean_run(config):
    model = built(config).double()
    rng = np.random.default_rng(2)
    clean, corrupted = rng.integers(0, config.vocab_size, (2, 9))
    values, logits = record(model, clean)
    whole = logits_after(model, corrupted, [Change("residual", 0, values["residual", 0])])
    np.testing.assert_allclose(whole[0], logits[-1], rtol=1e-12, atol=1e-12)
    # Also for one of many rows, each of which changes something else.
    rows = [Change("heads", 0, None, head) for head in range(config.n_heads)]
    rows.append(Change("residual", 0, values["residual", 0]))
    mixed = logits_after(model, corrupted, rows)
    np.testing.assert_allclose(mixed[-1], logits[-1], rtol=1e-12, atol=1e-12)
    unchanged = record(model, corrupted)[1][-1]
    own = record(model, corrupted)[0]["mlp", 0]
    same = logits_after(model, corrupted, [Change("mlp", 0, own)])
    np.testing.assert_allclose(same[0], unchanged, rtol=1e-12, atol=1e-12)


def test_many_changes_are_made_in_several_passes(monkeypatch):
    from minitx.inspection import interventions

    model = built(SHAPE)
    changes = [Change("heads", layer, None, head) for layer in range(2) for head in range(4)]
    at_once = logits_after(model, CLEAN, changes)
    monkeypatch.setattr(interventions, "_AT_ONCE", 1)
    np.testing.assert_allclose(logits_after(model, CLEAN, changes), at_once, atol=1e-5)


def test_the_model_is_left_as_it_was():
    model = built(SHAPE).train()
    attribute(model, CLEAN, 1)
    Patcher(model, CLEAN, CORRUPTED).everywhere()
    assert model.training
    for module in model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


def test_the_answer_is_chosen_where_none_is_given():
    model = built(SHAPE)
    patcher = Patcher(model, CLEAN, CORRUPTED)
    clean, corrupted = (int(record(model, ids)[1][-1].argmax()) for ids in (CLEAN, CORRUPTED))
    assert patcher.token == clean
    assert patcher.against == (corrupted if corrupted != clean else None)


@pytest.mark.parametrize(
    ("other", "words"),
    [(CORRUPTED[:-1], "has 7 tokens and the corrupted one 6"), (CLEAN, "are the same")],
)
def test_prompts_that_cannot_be_compared(other, words):
    with pytest.raises(BadInputError, match=words):
        Patcher(built(SHAPE), CLEAN, other)


@pytest.mark.parametrize(
    "ask",
    [
        lambda model: attribute(model, CLEAN, 1),
        lambda model: Patcher(model, CLEAN, CORRUPTED),
        lambda model: ablate_for_token(model, CLEAN, 1),
        lambda model: forward_steps(model, CLEAN),
    ],
)
def test_a_model_whose_parts_are_not_ours_is_refused(ask):
    model = built(SHAPE)
    model.blocks = torch.nn.ModuleList()
    with pytest.raises(BadInputError, match="are not known"):
        ask(model)
