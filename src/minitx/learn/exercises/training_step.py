"""A training step

One step: forget the old gradients, compute the loss, let PyTorch compute how it changes with every
parameter, and take a step downhill. One odd batch can have a huge gradient; so its length, taken
over all parameters together, is cut to a maximum. The direction stays.

    norm = sqrt( sum of the squares of all gradients of all parameters )
    if norm > max_norm:  every gradient is multiplied by max_norm / norm

Gradients are added up by PyTorch until someone sets them to zero. In place:
parameter.grad.mul_(...). What `model.parameters()` gives can be walked through once: for two loops,
make a list of it.

Paper: Pascanu et al. 2013, section 3.2, algorithm 1 (clipping).
In minitx: training/optimizers/optimizer_base.py: Optimizer.clip_gradients
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from minitx.learn.exercises.next_token_loss import next_token_loss


def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float) -> float:
    """Cut the gradients, in place, to a norm of at most `max_norm`; returns what it was before."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = float(torch.stack([gradient.square().sum() for gradient in gradients]).sum().sqrt())
    if norm > max_norm:
        for gradient in gradients:
            gradient.mul_(max_norm / norm)
    return norm


def training_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, ids: Tensor, max_norm: float
) -> float:
    """One step on ids `(B, T)`, with clipped gradients; returns the loss before the step."""
    optimizer.zero_grad()
    loss = next_token_loss(model(ids), ids)
    loss.backward()  # type: ignore[no-untyped-call]
    clip_gradients(model.parameters(), max_norm)
    optimizer.step()
    return loss.item()


# ---- what the judge reads ------------------------------------------------------------------------

from functools import partial

from torch.nn import functional as F

from minitx.learn.seeded import normal, token_ids, with_weights
from minitx.learn.trial import Calls, Code, Trial

HINTS = (
    "The order: zero_grad, loss, backward, clip, step. Nothing else.",
    "The norm is one number for all parameters: add the squares of all gradients, then the root. "
    "loss.item() is the loss as a plain number.",
)
SLIPS = """
The old gradients are never set to zero: each step goes where all steps before pointed, too.
    optimizer.zero_grad() -> pass
The gradients are not clipped when the step is taken: clip between backward and step.
    clip_gradients(model.parameters(), max_norm) -> pass
No step is taken, or none that has gradients (backward comes before it, and zero_grad not between
them): nothing is learned.
    optimizer.step() -> pass
Small gradients are scaled up, too: clipping only ever makes them smaller.
    if norm > max_norm: -> if norm > 0:
Each parameter is clipped by itself, which changes the direction: the norm is that of all together.
    gradient.mul_(max_norm / norm)
    -> gradient.mul_(min(1.0, max_norm / float(gradient.norm())))
Every number is clipped by itself, which changes the direction: all are scaled by one factor.
    gradient.mul_(max_norm / norm) -> gradient.clamp_(-max_norm, max_norm)
The root is missing: the norm is the root of the sum of squares.
    .sum().sqrt()) -> .sum())
The parameters are walked through twice, and the second time there are none: `model.parameters()`
gives each once. Make a list of them first.
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    -> gradients = (parameter.grad for parameter in parameters if parameter.grad is not None)
"""


class Bigram(nn.Module):
    """The smallest model there is: what follows each token, whatever stands before."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, 4)
        self.head = nn.Linear(4, vocab_size)

    def forward(self, ids: Tensor) -> Tensor:
        """`(B, T)` to `(B, T, vocab_size)`."""
        logits: Tensor = self.head(self.embedding(ids))
        return logits


def _clipped(parameters: Iterable[nn.Parameter], max_norm: float) -> float:
    # As torch does it, but for the 1e-6 that it adds to the norm.
    parameters = list(parameters)
    norm = nn.utils.clip_grad_norm_(parameters, float("inf"))
    if norm > max_norm:
        nn.utils.clip_grad_norm_(parameters, max_norm)
    return norm.item()


def _step(model: nn.Module, optimizer: torch.optim.Optimizer, ids: Tensor, limit: float) -> float:
    loss = F.cross_entropy(model(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        parameter.grad = gradient.clone()
    nn.utils.clip_grad_norm_(model.parameters(), limit)
    optimizer.step()
    return loss.item()


REFERENCE = Code(clip_gradients=_clipped, training_step=_step)


def _clip(code: Code, max_norm: float) -> object:
    parameters = [nn.Parameter(torch.zeros(shape)) for shape in (3, 4)]
    for seed, parameter in enumerate(parameters):
        parameter.grad = normal(*parameter.shape, seed=seed)
    # As model.parameters() is: to be walked through once.
    norm = code.clip_gradients(iter(parameters), max_norm)
    return {"norm": norm, "gradients": [parameter.grad for parameter in parameters]}


def _steps(code: Code, max_norm: float) -> object:
    model = with_weights(Bigram(5))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    batches = [token_ids(2, 6, vocab_size=5, seed=seed) for seed in range(3)]
    losses = [code.training_step(model, optimizer, ids, max_norm) for ids in batches]
    return {"losses": losses, "weights": dict(model.named_parameters())}


def trials(answer: Code) -> Calls:
    """Clipping by itself, where it cuts and where it does not; then three steps of each."""
    for limit in (0.5, 100.0):
        yield Trial(f"clip_gradients(parameters, {limit:g})", partial(_clip, answer), (limit,))
    for limit in (0.1, 100.0):
        about = f"three calls of training_step(model, optimizer, ids, {limit:g})"
        yield Trial(about, partial(_steps, answer), (limit,))
