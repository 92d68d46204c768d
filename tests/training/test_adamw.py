"""AdamW against torch's own optimizer."""

import subprocess
import sys

import torch

from minitx.training.optimizers.adamw import AdamW


def test_updates_are_those_of_torch():
    torch.manual_seed(0)
    shapes = {"matrix": (5, 7), "vector": (7,), "table": (3, 4)}
    ours = {name: torch.nn.Parameter(torch.randn(shape)) for name, shape in shapes.items()}
    theirs = {name: torch.nn.Parameter(p.detach().clone()) for name, p in ours.items()}
    adamw = AdamW(ours.items(), betas=(0.8, 0.9), weight_decay=0.3, eps=1e-6)
    reference = torch.optim.AdamW(
        [
            {"params": [theirs["matrix"], theirs["table"]], "weight_decay": 0.3},
            {"params": [theirs["vector"]], "weight_decay": 0.0},
        ],
        betas=(0.8, 0.9),
        eps=1e-6,
        foreach=False,
    )
    for rate in (0.1, 0.03, 0.2, 0.01):
        for name, parameter in ours.items():
            parameter.grad = torch.randn(shapes[name])
            theirs[name].grad = parameter.grad.clone()
        for group in reference.param_groups:
            group["lr"] = rate
        adamw.step(rate)
        reference.step()
    for name, parameter in ours.items():
        torch.testing.assert_close(parameter, theirs[name], atol=1e-6, rtol=1e-5)


def test_a_saved_state_goes_on_to_the_same_weights():
    torch.manual_seed(0)
    weights = torch.randn(4, 3)
    gradients = torch.randn(6, 4, 3)

    def train(parameter, adamw, part):
        for gradient in part:
            parameter.grad = gradient.clone()
            adamw.step(0.1)

    def fresh(values):
        parameter = torch.nn.Parameter(values.clone())
        return parameter, AdamW([("w", parameter)], betas=(0.9, 0.95), weight_decay=0.1)

    whole, adamw = fresh(weights)
    train(whole, adamw, gradients)
    begun, first = fresh(weights)
    train(begun, first, gradients[:3])
    resumed, second = fresh(begun.detach())
    for name, tensor in second.state_tensors().items():
        tensor.copy_(first.state_tensors()[name])
    train(resumed, second, gradients[3:])
    assert torch.equal(resumed, whole)


def test_each_update_counts_as_a_write():
    """What is derived from weights is renewed by the count of writes to them."""
    parameter = torch.nn.Parameter(torch.ones(2, 2))
    adamw = AdamW([("w", parameter)], betas=(0.9, 0.95), weight_decay=0.1)
    for _ in range(2):
        before = parameter._version
        parameter.grad = torch.ones(2, 2)
        adamw.step(0.1)
        assert parameter._version > before


def test_an_optimizer_is_made_without_loading_the_compiler():
    program = (
        "import sys, torch; from minitx.training.optimizers.adamw import AdamW;"
        "p = torch.nn.Parameter(torch.ones(2, 2)); p.grad = torch.ones(2, 2);"
        "AdamW([('p', p)], betas=(0.9, 0.95), weight_decay=0.1).step(0.1);"
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
