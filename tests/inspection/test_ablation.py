import copy
import math

import numpy as np
import pytest
import torch

from minitx.config import ModelConfig
from minitx.inspection.ablation import ablate_heads
from minitx.model import Transformer


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = ModelConfig(
        vocab_size=30, context_length=16, n_layers=2, n_heads=3, n_kv_heads=3, d_model=24,
        d_ff=32, head_dim=8,
    )  # fmt: skip
    model = Transformer(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.3)
    return model


TEXT = np.random.default_rng(0).integers(0, 30, 200)


def test_a_head_off_is_a_head_whose_output_columns_are_zero(model):
    found = ablate_heads(model, TEXT)
    n_windows, length = 200 // 17, 16
    assert found.measured_on == f"{n_windows} windows of {length} tokens of the holdout"
    starts = np.linspace(0, 200 - 17, n_windows).astype(int)
    windows = torch.from_numpy(np.stack([TEXT[s : s + 17] for s in starts]))

    def losses(model):
        model.eval()
        with torch.no_grad():
            logits = model(windows[:, :-1]).double().log_softmax(-1)
        picked = logits.gather(2, windows[:, 1:, None])[..., 0]
        return -picked.mean(dim=1).numpy()

    with_all = losses(model)
    assert found.loss == pytest.approx(with_all.mean(), abs=1e-6)
    for layer in range(2):
        for head in range(3):
            without = copy.deepcopy(model)
            with torch.no_grad():
                without.blocks[layer].attention.output.weight[:, 8 * head : 8 * head + 8] = 0
            change = losses(without) - with_all
            one = found.of(layer, head)
            assert one.loss_change == pytest.approx(change.mean(), abs=1e-6)
            error = change.std(ddof=1) / math.sqrt(len(change))
            assert one.standard_error == pytest.approx(error, abs=1e-6)
    assert found.of(5, 0) is None


def test_the_model_is_left_as_it_was(model):
    model.train()
    ablate_heads(model, TEXT[:40])
    assert model.training
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_a_short_text_is_one_window_without_an_error_estimate(model):
    found = ablate_heads(model, TEXT[:5], "the prompt")
    assert found.heads[0].standard_error is None
    assert found.measured_on == "1 window of 4 tokens of the prompt"
    assert ablate_heads(model, TEXT[:1]) is None
