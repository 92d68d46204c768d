"""The kernel of a GPU's loss against the plain formula; skipped without Triton or a CUDA device."""

import pytest
import torch
from torch.testing import assert_close

from minitx.fast.torch_compile import loss_and_gradient
from minitx.model.transformer import IGNORED

pytest.importorskip("triton")
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")


@pytest.mark.parametrize("vocab", [65, 8192, 20_001])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kernel_computes_what_the_formula_does(vocab, dtype):
    from minitx.fast import triton_loss

    generator = torch.Generator("cuda").manual_seed(0)
    logits = (torch.randn(33, vocab, device="cuda", generator=generator) * 5).to(dtype)
    targets = torch.randint(vocab, (33,), device="cuda", generator=generator)
    shares = torch.full((33,), 1 / 32, device="cuda")
    targets[7], shares[7] = IGNORED, 0.0
    expected, gradient = loss_and_gradient(logits, targets, shares)
    losses, over = triton_loss.loss_and_gradient(logits.clone(), targets, shares)
    assert_close(losses, expected, rtol=1e-5, atol=1e-6)
    tolerance = {"rtol": 1e-2, "atol": 1e-5} if dtype == torch.bfloat16 else {}
    assert_close(over, gradient, **tolerance)


def test_a_logit_that_is_no_number_is_seen():
    from minitx.fast import triton_loss

    logits = torch.zeros(2, 100, device="cuda")
    logits[1, 3] = float("nan")
    losses, _ = triton_loss.loss_and_gradient(
        logits, torch.zeros(2, dtype=torch.int64, device="cuda"), torch.ones(2, device="cuda")
    )
    assert losses[0].isfinite()
    assert losses[1].isnan()
