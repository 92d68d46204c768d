"""The loop: warmup, decay, and many steps

Two things about the learning rate. At first it rises, because Adam's averages are still empty and
its first steps would be long and wrong. In the end it falls, because with a constant rate the
weights keep jumping across the valley. Steps count from 0; the first one already learns, and so
does the last:

    rising    peak * (step + 1) / warmup                         while step < warmup
    falling   peak * (steps - step) / (steps - warmup + 1)       after that, in a straight line

The loop then is: for each batch, set the rate of that step in every group of the optimizer
(group["lr"] for group in optimizer.param_groups), and take your training step.

Paper: Vaswani et al. 2017, section 5.3 (warmup); Hu et al. 2024 (MiniCPM), section 4 (decay).
In minitx: training/schedule.py: rate_factor
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from minitx.learn.exercises.training_step import training_step


def learning_rate(step: int, steps: int, warmup: int, peak: float) -> float:
    """Of step `step`, from 0, in a run of `steps` steps of which `warmup` are for warmup."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * (steps - step) / (steps - warmup + 1)


def train(
    model: nn.Module, optimizer: torch.optim.Optimizer, batches: list[Tensor], warmup: int,
    peak: float,
) -> list[float]:  # fmt: skip
    """A step on each batch, with gradients clipped to 1.0; returns the losses."""
    losses = []
    for step, ids in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, len(batches), warmup, peak)
        losses.append(training_step(model, optimizer, ids, 1.0))
    return losses


# ---- what the judge reads ------------------------------------------------------------------------

from functools import partial

import numpy as np
from torch.nn import functional as F

from minitx.learn.exercises.training_step import Bigram
from minitx.learn.seeded import token_ids, with_weights
from minitx.learn.trial import Calls, Code, Trial

HINTS = (
    "learning_rate is the two formulas and one `if`. In train, enumerate(batches) counts the "
    "steps.",
    "Set the rate before the step is taken, in every step: the optimizer reads it then.",
)
SLIPS = r"""
Warmup begins at a rate of 0, so that the first step learns nothing: step + 1.
    (step + 1) / warmup -> step / warmup
There is no warmup.
    if step < warmup: -> if False:
There is no decay: after warmup the rate falls to almost 0 at the last step.
    peak * (steps - step) / (steps - warmup + 1) -> peak
The decay is measured from step 0, so that the rate jumps when warmup ends.
    (steps - warmup + 1) -> steps
The rate is never set in the optimizer, which goes on with its own: group["lr"].
    group["lr"] = learning_rate -> learning_rate
Only the first group of parameters gets the rate: set it in each.
    in optimizer.param_groups: -> in optimizer.param_groups[:1]:
The gradients are not clipped to 1.0.
    ids, 1.0) -> ids, float("inf"))
The rate is set after the step, which was taken with that of the step before: set it first.
    enumerate(batches):\n
    -> enumerate(batches):\n        losses.append(training_step(model, optimizer, ids, 1.0))\n
    losses.append(training_step(model, optimizer, ids, 1.0))\n    return
    -> pass\n    return
"""


def _rate(step: int, steps: int, warmup: int, peak: float) -> float:
    return float(np.interp(step, [-1, warmup - 1, steps], [0.0, peak, 0.0]))


def _train(
    model: nn.Module, optimizer: torch.optim.Optimizer, batches: list[Tensor], warmup: int,
    peak: float,
) -> list[float]:  # fmt: skip
    losses = []
    for group in optimizer.param_groups:
        group["lr"] = 1.0
    rates = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: _rate(step, len(batches), warmup, peak)
    )
    for ids in batches:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        rates.step()
        losses.append(loss.item())
    return losses


REFERENCE = Code(learning_rate=_rate, train=_train)


def _rates(code: Code, steps: int, warmup: int, peak: float) -> object:
    return [code.learning_rate(step, steps, warmup, peak) for step in range(steps)]


def _run(code: Code, warmup: int, peak: float) -> object:
    model = with_weights(Bigram(5))
    groups = [{"params": [parameter]} for parameter in model.parameters()]
    optimizer = torch.optim.SGD(groups, lr=0.03)
    batches = [3 * token_ids(2, 6, vocab_size=2, seed=seed) for seed in range(6)]
    losses = code.train(model, optimizer, batches, warmup, peak)
    return {"losses": losses, "weights": dict(model.named_parameters())}


def trials(answer: Code) -> Calls:
    """All rates of two runs; then a run of six steps, of a model whose gradients are cut."""
    for steps, warmup, peak in ((10, 4, 1.0), (7, 2, 0.01)):
        about = f"learning_rate of each step, with steps={steps}, warmup={warmup}, peak={peak:g}"
        yield Trial(about, partial(_rates, answer), (steps, warmup, peak))
    about = "train(model, optimizer, 6 batches, warmup=2, peak=0.5)"
    yield Trial(about, partial(_run, answer), (2, 0.5))
