"""Begin a run with a model that is trained already: `minitx train --from`."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from minitx.checkpoint import SavedModel, load_model
from minitx.checkpoint.adapter import ADAPTER_FILE, adapt, load_adapter
from minitx.checkpoint.own_code import OwnCode
from minitx.checkpoint.own_model import OwnModel, new_model
from minitx.checkpoint.rundir import RunDirectory, find_run, resolve_checkpoint
from minitx.checkpoint.weights import shards
from minitx.compute import Compute
from minitx.config import RunConfig
from minitx.config.checks import require
from minitx.corpus.encoded import load_encoded
from minitx.corpus.shards import IdArray
from minitx.errors import BadInputError, DamagedFileError, MinitxError
from minitx.evaluation.scoring import score, windows_for
from minitx.files import file_digest
from minitx.model import Transformer, without_memory
from minitx.training.frozen import freeze
from minitx.training.planning import TRAINED_CONTEXT
from minitx.workflows.prepare import TrainRequest
from minitx.workflows.session import OLD_HOLDOUT_FILE

_MAY_CHANGE = ("context_length", "dropout", "vocab_size", "end_id")
_log = logging.getLogger("minitx")


@dataclass(frozen=True, eq=False)
class Start:
    """A model to begin with.

    Attributes:
        saved: the model and its tokenizer.
        digest: SHA-256 of its weights.
        run: that it was trained in; None if minitx did not train it, or the run is gone.
        old_holdout: `(tokens,)` ids of what that run held out; None if they are not at hand.
    """

    saved: SavedModel
    digest: str
    run: RunConfig | None
    old_holdout: IdArray | None

    def planned(self, request: TrainRequest) -> TrainRequest:
        """What is asked for, with what follows from the model.

        Raises:
            BadInputError: something is asked for that the model decides.
        """
        model, asked = self.saved.model.config, request.model
        for key, value in asked.items():
            if key not in _MAY_CHANGE and value != getattr(model, key):
                raise BadInputError(
                    f"{key} is {value!r}, and that of the model to begin with is "
                    f"{getattr(model, key)!r}",
                    "Leave it out, or train a new model without --from",
                )
        own = {"kind": self.saved.tokenizer.kind, "vocab_size": self.saved.tokenizer.vocab_size}
        if request.tokenizer_directory or not request.tokenizer.items() <= own.items():
            raise BadInputError(
                "a model to begin with has a tokenizer, and another one was asked for",
                "Leave out --tokenizer, --kind and --vocab-size, or --from",
            )
        if request.model_file is not None:
            raise BadInputError("--from and --model each name a model", "Give one of them")
        longest = model.context_length
        if asked.get("context_length", longest) > longest:
            raise BadInputError(
                f"context_length is {asked['context_length']:,}, and the model to begin with knows "
                f"{longest:,} positions",
                f"Use --context {longest} or less",
            )
        # Positions that are learned would be lost; angles are the same in a shorter context.
        if model.architecture != "gpt2":
            longest = min(longest, TRAINED_CONTEXT)
        # Optimizer, rate and what else the plan chooses for such a model: `plan_run`.
        is_new = self.run is None or bool(request.train.get("lora"))
        optimizer = "adamw" if self.run is None or is_new else self.run.train.optimizer
        train = {"optimizer": optimizer, **request.train, "start_digest": self.digest}
        train["start"] = str(self.saved.directory.absolute())
        shape = {key: value for key, value in vars(model).items() if value is not None}
        shape = {**shape, "context_length": longest, **asked, "vocab_size": model.vocab_size}
        return replace(request, model=shape, train=train)


def open_start(train: dict[str, object]) -> Start | None:
    """The model that keys of `TrainConfig` name to begin with; None if they name none.

    Raises:
        BadInputError: there is none, it is of a kind that can't be trained further, or it is
            another than was noted.
        DamagedFileError: it is damaged.
    """
    name = train.get("start")
    if name is None:
        require(
            not train.get("lora"),
            "--lora learns an update of a trained model, and none is named",
            "Name it with --from",
        )
        return None
    directory = resolve_checkpoint(Path(str(name)))
    digest = _digest(directory)
    if train.get("start_digest", digest) != digest:
        raise BadInputError(
            f"the weights in {directory} are not those that the run began with",
            "Restore them, or leave out start_digest to begin with what is there",
        )
    saved = load_model(directory)
    if isinstance(saved.model, OwnModel):
        raise BadInputError(
            f"{directory} holds a model of somebody's own, whose shape only its code knows",
            "Name a model of minitx or of transformers",
        )
    run = find_run(directory)
    return Start(saved, digest, _config_of(run), _holdout_of(run, saved))


def starting_model(config: RunConfig, code: OwnCode | None, start: Start | None) -> Transformer:
    """A model of a config with the weights to begin with: those of `start`, or drawn ones.

    What is not to be trained is frozen.

    Raises:
        BadInputError: it has no part that is to be frozen.
    """
    if start is None:
        return _partly_frozen(new_model(config.model, code), config)
    weights: dict[str, Tensor] = dict(start.saved.model.state_dict())
    if "positions.weight" in weights:
        rows = weights["positions.weight"][: config.model.context_length]
        weights["positions.weight"] = rows.clone()
    if config.model.vocab_size > len(weights["embedding.weight"]):
        _add_rows(weights, config)
    model = without_memory(config.model)
    model.load_state_dict(weights, assign=True)
    if config.model.tie_embeddings:
        model.head.weight = model.embedding.weight
    model.requires_grad_(True)
    return adapt(model, config.train.lora) if config.train.lora else _partly_frozen(model, config)


def _add_rows(weights: dict[str, Tensor], config: RunConfig) -> None:
    """Give tokens that a model does not know, as the roles of conversations, weights like those of
    the others."""
    require(
        not config.train.lora,
        "--lora changes no embedding, and the roles of conversations need one",
        "Leave out --lora, or begin with a model that was trained on conversations",
    )
    random = torch.Generator().manual_seed(config.train.seed)
    for name in ("embedding.weight", "head.weight"):
        if name in weights:
            old = weights[name]
            shape = config.model.vocab_size - len(old), old.size(1)
            drawn = torch.randn(shape, generator=random).to(old)
            weights[name] = torch.cat([old, old.mean(0) + drawn * old.std(0)])


def resumed_model(config: RunConfig, loaded: Transformer, checkpoint: Path) -> Transformer:
    """The model of a checkpoint, as its run trains it: with what is frozen, or with its update.

    Raises:
        BadInputError: the model that the update is of is gone or was changed.
        DamagedFileError: the update can't be read.
    """
    if not config.train.lora:
        return _partly_frozen(loaded, config)
    try:
        model = starting_model(config, None, open_start(vars(config.train)))
    except BadInputError as error:
        raise BadInputError(
            f"the run learns an update of a model that is not there any more: {error.what}",
            f"Restore it, or go on from what was learned: minitx train --from {checkpoint}",
        ) from None
    load_adapter(model, checkpoint / ADAPTER_FILE)
    return model


def _partly_frozen(model: Transformer, config: RunConfig) -> Transformer:
    return freeze(model, config.train.freeze) if config.train.freeze else model


def keep_old_holdout(
    start: Start, run: RunDirectory, model: Transformer, config: RunConfig, compute: Compute
) -> dict[str, str]:
    """Write what the run before held out into the new one, so that forgetting is seen.

    Returns:
        What the plan says of the model that it begins with.
    """
    if start.old_holdout is None:
        return {"start": f"weights {start.digest[:12]}"}
    np.save(run.path / OLD_HOLDOUT_FILE, start.old_holdout)
    n_tokens = config.train.evaluation_tokens
    windows = windows_for(model, max_tokens=n_tokens, autocast_dtype=compute.dtype)
    loss = score(model, start.old_holdout, windows).loss
    return {"start": f"weights {start.digest[:12]}, {loss:.4f} on its own holdout now"}


def _digest(directory: Path) -> str:
    first, *others = (file_digest(path) for path in shards(directory))
    several = "".join([first, *others]).encode()
    return hashlib.sha256(several).hexdigest() if others else first


def _config_of(run: RunDirectory | None) -> RunConfig | None:
    try:
        return None if run is None else run.read_config()
    except DamagedFileError:
        return None


def _holdout_of(run: RunDirectory | None, saved: SavedModel) -> IdArray | None:
    if run is None:
        return None
    try:
        corpus = load_encoded(run.data)
    except MinitxError as error:
        _log.warning("warning: %s; what the model forgets of it is not shown", error.what)
        return None
    known = saved.tokenizer.has_digest(corpus.tokenizer_digest)
    return corpus.holdout_ids if known and len(corpus.holdout_ids) > 1 else None
