"""A model that somebody changed trains, generates and is measured as it is now, with no flag."""

import numpy as np
import pytest
import torch
from small_runs import TINY_MODEL, TINY_TRAIN, VERSES

from minitx.checkpoint import load_model
from minitx.checkpoint.rundir import RunDirectory
from minitx.compute import Compute
from minitx.config import ModelConfig, SamplingConfig
from minitx.evaluation.scoring import score
from minitx.generation import generate
from minitx.model import transformer
from minitx.training.gradients import GradientPass
from minitx.training.observer import TrainingObserver
from minitx.workflows.train import TrainRequest, train

WINDOW = 8
SOUND_MASK = transformer.causal_mask


class WindowedAttention(transformer.Attention):
    """Looks at the newest 8 tokens, itself among them."""

    def forward(self, x, shared):
        length = int(shared.positions.max()) + 1
        ahead = torch.arange(length)[shared.positions][..., None] - torch.arange(length)
        shared.mask, shared.is_causal = (ahead >= 0) & (ahead < WINDOW), False
        if shared.positions.dim() > 1:
            shared.mask = shared.mask.unsqueeze(1)
        return super().forward(x, shared)


def windowed_mask(queries, keys, device=None):
    mask = torch.ones(queries, keys, dtype=torch.bool, device=device)
    return mask.tril(keys - queries).triu(keys - queries - WINDOW + 1)


def hook(model):
    def halve(module, inputs, output):
        return output * 0.5

    for block in model.blocks:
        block.mlp.register_forward_hook(halve)
    return model


@pytest.fixture(params=["subclass", "mask", "hook"])
def changed(request, monkeypatch):
    """Change every model that is made from here on; what the run says of it."""
    if request.param == "subclass":
        monkeypatch.setattr(transformer, "Attention", WindowedAttention)
    elif request.param == "mask":
        monkeypatch.setattr(transformer, "causal_mask", windowed_mask)
    else:
        sound = transformer.Transformer.__init__

        def hooked(self, config):
            sound(self, config)
            hook(self)

        monkeypatch.setattr(transformer.Transformer, "__init__", hooked)
    return request.param


REASONS = {"subclass": "Attention", "mask": "causal_mask", "hook": "Transformer.__init__"}


class Start(TrainingObserver):
    def on_start(self, start):
        self.start = start


def loss_by_hand(model, ids):
    """Mean loss of a window, from logits of the changed model computed at once."""
    logits = model(ids[None, :-1])[0].double().log_softmax(-1)
    return -float(logits.gather(1, ids[1:, None]).mean())


def test_it_trains_generates_and_is_measured_as_it_is(tmp_path, changed, verses):
    observer = Start()
    request = TrainRequest(
        data={"corpus": (str(verses),)},
        tokenizer={"kind": "char"},
        model=TINY_MODEL,
        train={**TINY_TRAIN, "steps": 20},
        out=tmp_path / "run",
    )
    run = RunDirectory(train(request, [observer]).run)
    assert observer.start.engine == "plain"
    assert run.read_config().train.engine == "plain"
    assert REASONS[changed] in observer.start.reasons["engine"]

    saved = load_model(run.usable_checkpoint("last"))
    model, tokenizer = saved.model.eval(), saved.tokenizer
    ids = torch.from_numpy(tokenizer.encode(VERSES[:600]).astype(np.int64))
    context = TINY_MODEL["context_length"]
    with torch.no_grad():
        expected = loss_by_hand(model, ids[: context + 1])
        measured = score(model, ids[: context + 1].numpy()).loss
        assert measured == pytest.approx(expected, rel=1e-5)

        text = VERSES[:20]
        drawn = generate(
            model, tokenizer, [text, text[:5]], SamplingConfig(temperature=0.0, max_new_tokens=10)
        )
        for start, generation in zip((text, text[:5]), drawn, strict=True):
            tokens = tokenizer.encode(start).tolist()
            for token in generation.ids:
                assert token == int(model(torch.tensor([tokens]))[0, -1].argmax())
                tokens.append(token)

    # The change matters: without it the same weights have another loss.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transformer, "Attention", WindowedAttention.__base__)
        patch.setattr(transformer, "causal_mask", SOUND_MASK)
        unchanged = load_model(run.usable_checkpoint("last")).model.eval()
    for block in unchanged.blocks:
        block.mlp._forward_hooks.clear()
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(transformer, "causal_mask", SOUND_MASK)
        assert abs(loss_by_hand(unchanged, ids[: context + 1]) - expected) > 1e-6


def test_gradients_are_those_of_the_changed_model(changed):
    torch.manual_seed(0)
    config = ModelConfig(vocab_size=11, head_dim=8, **TINY_MODEL)
    model = transformer.Transformer(config).train()
    ids = torch.randint(11, (3, 24))
    compute = Compute(torch.device("cpu"), torch.float32)
    loss = GradientPass(model, compute)(ids, ids.roll(-1, 1))
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    by_hand = model.loss(ids, ids.roll(-1, 1))
    by_hand.backward()
    assert float(loss) == float(by_hand.detach())
    for gradient, parameter in zip(gradients, model.parameters(), strict=True):
        assert gradient.equal(parameter.grad)
