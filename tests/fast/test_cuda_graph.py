"""One pass forward and backward: plain, with several passes to a step, and captured."""

import pytest
import torch
from torch.testing import assert_close

from minitx.compute import Compute
from minitx.config import ModelConfig, TrainConfig
from minitx.model import Transformer
from minitx.training.gradients import WARMUP_PASSES, CapturedPass, GradientPass, gradient_pass

SHAPE = ModelConfig(
    vocab_size=50, context_length=32, n_layers=2, n_heads=2, n_kv_heads=1, d_model=32, d_ff=64,
    head_dim=16,
)  # fmt: skip
CPU = Compute(torch.device("cpu"), torch.float32)


def model_of(config=SHAPE, device="cpu"):
    torch.manual_seed(0)
    return Transformer(config).to(device).train()


def batch(number, device="cpu"):
    generator = torch.Generator().manual_seed(number)
    ids = torch.randint(50, (4, 33), generator=generator).to(device)
    return ids[:, :-1], ids[:, 1:]


def gradients(model):
    return [p.grad.clone() for p in model.parameters()]


def test_passes_of_a_step_are_averaged():
    apart, together = model_of(), model_of()
    a_pass = GradientPass(apart, CPU, passes=2)
    losses = [a_pass(*batch(number)) for number in range(2)]
    whole = [torch.cat(parts) for parts in zip(batch(0), batch(1), strict=True)]
    loss = GradientPass(together, CPU)(*whole)
    assert_close(sum(losses) / 2, loss)
    assert_close(gradients(apart), gradients(together))


def test_nothing_is_captured_without_a_gpu():
    config = TrainConfig(steps=1, batch_size=1, learning_rate=0.1, cuda_graph=True)
    assert type(gradient_pass(model_of(), config, CPU)) is GradientPass


needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")


@needs_cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("passes", [1, 2])
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_captured_pass_computes_what_the_plain_one_does(dtype, passes, dropout):
    shape = ModelConfig(**{**vars(SHAPE), "dropout": dropout})
    compute = Compute(torch.device("cuda"), dtype)
    plain, captured = model_of(shape, "cuda"), model_of(shape, "cuda")
    a_pass, another = (kind(m, compute, passes) for kind, m in
                       ((GradientPass, plain), (CapturedPass, captured)))  # fmt: skip
    for step in range(WARMUP_PASSES + 4):
        losses = []
        for number in range(step * passes, (step + 1) * passes):
            pair = []
            for one in (a_pass, another):
                torch.manual_seed(number)
                pair.append(one(*batch(number, "cuda")))
            losses.append(pair)
        for ours, expected in losses:
            assert_close(ours, expected, rtol=1e-5, atol=1e-6)
        tolerance = {"rtol": 2e-2, "atol": 1e-3} if dtype == torch.bfloat16 else {}
        assert_close(gradients(captured), gradients(plain), **tolerance)
        for model in (plain, captured):
            for parameter in model.parameters():
                # Another loss in the next step, and no gradients from this one.
                parameter.data.add_(parameter.grad, alpha=-0.5)
                parameter.grad = None
