"""What the experiments share: a small text as ids, and a training loop of a dozen lines.

`minitx train` does much more around it; the steps themselves are these.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch

from minitx.config import ModelConfig, TrainConfig
from minitx.corpus.sources import default_text
from minitx.model import Transformer
from minitx.tokenizer import Tokenizer, train_tokenizer
from minitx.training.batches import Batches
from minitx.training.optimizers import make_optimizer
from minitx.training.schedule import rate_factor

Batch = tuple[torch.Tensor, torch.Tensor]


def small_text(characters: int = 200_000) -> tuple[Tokenizer, np.ndarray, np.ndarray]:
    """A character tokenizer, and the ids of a train part and a holdout of the default text."""
    text = default_text()[:characters]
    tokenizer = train_tokenizer(text, "char", 256)
    ids = tokenizer.encode(text)
    cut = len(ids) * 9 // 10
    return tokenizer, ids[:cut], ids[cut:]


def small_model(vocab_size: int, context_length: int, **changed: object) -> ModelConfig:
    """A model of two layers that learns within seconds."""
    shape: dict = {
        "vocab_size": vocab_size, "context_length": context_length, "n_layers": 2, "n_heads": 4,
        "n_kv_heads": 4, "d_model": 64, "d_ff": 128, "head_dim": 16,
    }  # fmt: skip
    return ModelConfig(**(shape | changed))


@dataclass
class Curve:
    """What each step found: the loss before its update, and the gradient norm before clipping."""

    losses: list[float] = field(default_factory=list)
    gradient_norms: list[float] = field(default_factory=list)


def train_small(
    shape: ModelConfig,
    ids: np.ndarray,
    config: TrainConfig,
    spoil: Callable[[int, Batch], Batch] = lambda step, batch: batch,
) -> tuple[Transformer, Curve]:
    """Train a model on ids.

    Args:
        shape: of the model.
        ids: (tokens,) what to learn.
        config: steps, rates, clipping, seed.
        spoil: may replace the batch of a step, to see what happens.
    """
    torch.manual_seed(config.seed)
    model = Transformer(shape)
    optimizer = make_optimizer(model, config)
    batches = Batches(
        ids, shape.context_length, config.batch_size, config.seed, torch.device("cpu")
    )
    curve = Curve()
    for step in range(config.steps):
        inputs, targets = spoil(step, batches[step])
        loss = model.loss(inputs, targets)
        loss.backward()
        norm = optimizer.step(rate_factor(config, step, config.steps))
        curve.losses.append(float(loss.detach()))
        curve.gradient_norms.append(float(norm))
    return model.eval(), curve
