"""Try a model of a person's own before the first step: `minitx train --model my_model.py`.

What goes wrong is told in one line: it can't be built, gives something else than logits, learns
nothing, draws or keeps something where it must not, or sees what comes later.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from minitx.checkpoint.own_code import OwnCode, read_own_code
from minitx.checkpoint.own_model import OwnModel
from minitx.compute import Compute
from minitx.config import ModelConfig
from minitx.config.overrides import Overrides
from minitx.errors import BadInputError
from minitx.inspection.mask_check import first_leak, future_seen, moved_bits
from minitx.model import evaluating
from minitx.trust import trust

SHAPE = ("n_layers", "n_heads", "n_kv_heads", "d_model", "d_ff", "head_dim", "tie_embeddings")
"""Keys of the model's config that are its own affair."""


def own_code(file: Path | None, model: Overrides) -> OwnCode | None:
    """The code of a file that a person named; None if they did not.

    Raises:
        BadInputError: it can't be used, or the keys of the model are those of such a file.
    """
    if file is None and "code_file" in model:
        raise BadInputError(
            "the config is that of a model of one's own, and its file is not named",
            "Name it with --model, or leave out code_file and code_digest",
        )
    return None if file is None else read_own_code(file)


def tried(
    config: ModelConfig, code: OwnCode, compute: Compute, seed: int, check: bool = True
) -> ModelConfig:
    """The config of a model of one's own that works; its code is trusted from then on.

    It has the layers and heads that the module shows, where these are its own.

    Args:
        check: whether it is refused if it sees what comes later.

    Raises:
        BadInputError: it does not work.
    """
    config = replace(config, code_file=code.file, code_digest=code.digest)
    with torch.random.fork_rng([compute.device] if compute.device.type == "cuda" else []):
        torch.manual_seed(seed)
        model = OwnModel(config, code)
        n_parameters = sum(parameter.numel() for parameter in model.parameters())
        if not n_parameters:
            what = f"the model of {code.file} has no parameters, so there is nothing to train"
            raise BadInputError(what, "Give it layers as attributes of the module")
        model.to(compute.device)
        _require_sound(model, compute)
        if check:
            _require_causal(model, compute)
        config = replace(_with_shape(config, code, model), code_parameters=n_parameters)
    trust(code.digest)
    return config


def _require_sound(model: OwnModel, compute: Compute) -> None:
    config, file = model.config, model.code.file
    generator = torch.Generator().manual_seed(0)
    size = (2, config.context_length)
    ids = torch.randint(config.vocab_size, size, generator=generator).to(compute.device)
    with compute.autocast():
        loss = model.loss(ids, ids.roll(-1, 1))
    if not loss.isfinite():
        what = f"the loss of {file} is {loss.item():g} before the first step"
        raise BadInputError(what, "Look for a log of 0, a division by 0, or weights that are huge")
    if not loss.requires_grad:
        what = f"the logits of {file} do not depend on parameters that learn"
        raise BadInputError(what, "Compute them with gradients, from parameters")
    with model.code.told():
        loss.backward()  # type: ignore[no-untyped-call]
    for name, parameter in model.module.named_parameters():
        gradient: Tensor | None = parameter.grad
        if gradient is None:
            raise BadInputError(
                f"parameter {name} of {file} gets no gradient: it has no part in the logits",
                "Use it in forward, remove it, or make it a buffer",
            )
        if not gradient.isfinite().all():
            what = f"the gradient of {name} of {file} is NaN or infinite before the first step"
            raise BadInputError(what, "Look for a square root or a norm of 0")
    with torch.no_grad(), evaluating(model):
        short = ids[:1, : max(1, config.context_length // 2)]
        model(short[:, :1])  # as text is generated
        if moved_bits(model(short), model(short)).any():
            raise BadInputError(
                f"{file} gives other logits when it is called again, in eval mode",
                "Draw numbers only where self.training is true, and keep nothing between calls",
            )


def _require_causal(model: OwnModel, compute: Compute) -> None:
    leak = first_leak(model, compute)
    if leak is None:
        return
    ahead, most = future_seen(model), min(24, model.config.context_length) - 1
    if ahead == 0:
        kind = "in training, it mixes positions, as a norm over the batch or the tokens does"
    elif ahead == most:
        kind = (
            "it sees all that comes later: the mask is missing, comes after the softmax, or the "
            "softmax is over the wrong axis"
        )
    else:
        many = "a token" if ahead == 1 else f"{ahead} tokens"
        kind = f"it sees {many} ahead: the mask is shifted, by a token for each layer that has it"
    raise BadInputError(
        f"{model.code.file} is not causal, so it would copy what it should predict: position "
        f"{leak.position} changes when only tokens after {leak.cut} do; first in {leak.place}; "
        f"{kind}",
        "Mend it, or go on all the same with --no-check",
    )


def _with_shape(config: ModelConfig, code: OwnCode, model: OwnModel) -> ModelConfig:
    # A module that follows the config shows its numbers; one that has its own shows the same ones
    # for any config, and then the config takes those.
    with evaluating(model):
        shape = model.attention_shape()
        if shape is None or shape == (config.n_layers, config.n_heads):
            return config
    try:
        other = replace(config, n_layers=shape[0], n_heads=shape[1], n_kv_heads=shape[1])
        again = OwnModel(other, code).to(next(model.parameters()).device)
        return other if again.eval().attention_shape() == shape else config
    except BadInputError:
        return config
