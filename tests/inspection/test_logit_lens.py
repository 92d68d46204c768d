import dataclasses

import numpy as np
import pytest
import torch

from minitx.config import ModelConfig
from minitx.inspection.logit_lens import read_logit_lens
from minitx.model import Transformer

IDS = np.random.default_rng(0).integers(0, 30, 12)


@pytest.fixture(scope="module", params=["qwen3", "gpt2"])
def model(request):
    torch.manual_seed(0)
    config = ModelConfig(
        architecture=request.param, vocab_size=30, context_length=16, n_layers=3, n_heads=2,
        n_kv_heads=2, d_model=16, d_ff=32, head_dim=8,
    )  # fmt: skip
    model = Transformer(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.3)
    return model


def first_layers(model, n_layers):
    """A model of its own with the first layers' weights and the same norm and head."""
    shorter = Transformer(dataclasses.replace(model.config, n_layers=n_layers)).eval()
    shorter.load_state_dict(
        {name: value for name, value in model.state_dict().items() if name in shorter.state_dict()}
    )
    return shorter


def test_each_reading_is_what_the_model_cut_off_there_says(model):
    lens = read_logit_lens(model, IDS, k=4)
    assert lens.names == ("embedding", "layer 0", "layer 1", "layer 2")
    text = torch.from_numpy(IDS)
    for at in (1, 2, 3):
        with torch.no_grad():
            logits = first_layers(model, at)(text[None])[0]
        chances = logits.softmax(-1)
        best = chances.topk(4, dim=-1)
        np.testing.assert_array_equal(lens.top_ids[at], best.indices.numpy())
        np.testing.assert_allclose(lens.top_probabilities[at], best.values.numpy(), atol=1e-6)
        right = chances[:-1].gather(1, text[1:, None])[:, 0].numpy()
        np.testing.assert_allclose(lens.next_probability[at], right, atol=1e-6)
        assert lens.loss[at] == pytest.approx(-np.log(right).mean(), abs=1e-5)


def test_the_last_reading_is_the_model_itself(model):
    lens = read_logit_lens(model, IDS)
    with torch.no_grad():
        text = torch.from_numpy(IDS)
        loss = model.loss(text[None, :-1], text[None, 1:])
    assert lens.loss[-1] == pytest.approx(float(loss), abs=1e-5)


def test_one_token_has_readings_but_no_loss(model):
    lens = read_logit_lens(model, IDS[:1], k=99)
    assert lens.top_ids.shape == (4, 1, 30)
    assert lens.next_probability.shape == (4, 0)
    assert len(lens.loss) == 0
    np.testing.assert_allclose(lens.top_probabilities.sum(axis=-1), 1.0, atol=1e-5)
