"""Look inside a trained model while it reads a text: what `minitx attn` does, as library calls.

    study = open_study(Path("runs/shakespeare"), prompt="To be or not to be")
    study.maps.head(1, 3)              # (seq, seq) weights
    study.roles.most_telling()         # which head does what

Each figure is measured when it is first asked for, and kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from minitx.checkpoint.own_model import refuse_own
from minitx.checkpoint.rundir import find_run
from minitx.compute import choose_compute
from minitx.config import Index, MapKind
from minitx.errors import BadInputError, DamagedFileError
from minitx.evaluation.arrays import Float32Array, IntArray
from minitx.files import describe_damage, writing_where_asked
from minitx.inspection.ablation import Ablation, ablate_heads
from minitx.inspection.attention_maps import (
    AttentionMaps,
    read_attention,
    require_existing,
    require_fits,
)
from minitx.inspection.attribution import Attribution, attribute
from minitx.inspection.film import Film, read_film
from minitx.inspection.head_roles import HeadRoles, read_roles
from minitx.inspection.interventions import record
from minitx.inspection.logit_lens import LogitLens, read_logit_lens
from minitx.inspection.mask_check import MaskCheck, check_mask
from minitx.inspection.patching import Patcher
from minitx.model import Transformer
from minitx.shown import Shown
from minitx.tokenizer import Tokenizer
from minitx.workflows.load import LoadedModel, open_checkpoint

SHORT_PROMPT = 32
"""Tokens of the holdout that stand in for a prompt: so many fit a map 80 columns wide."""

PAGE_PROMPT = 128
"""As many as a page shows."""

NO_FILM = "Train without --no-film and --shard, and longer: a film takes at most 1 % of a run"

_HOLDOUT_CHARACTERS = 1_000_000
# Tokens within which a line is expected to begin.
_SEARCHED = 500


@dataclass(frozen=True, eq=False)
class ChosenMap(Shown):
    """One map to show.

    Attributes:
        layer, head: of which; None where the map is over all of them.
        values: (seq, seq).
        tokens: text of each; empty if it is not known.
    """

    kind: MapKind
    layer: int | None
    head: int | None
    values: Float32Array
    tokens: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class AttentionStudy(Shown):
    """A model, a text, and everything that can be measured of the two.

    Attributes:
        prompt_from: in words, where the text comes from; None if it was given.
        ids: (seq,) token ids of the text.
        sample_ids: (tokens,) of a longer text to measure roles and ablations on: the holdout, or
            the prompt where there is none.
        sample_name: what that text is, in words.
    """

    checkpoint: Path
    model: Transformer
    tokenizer: Tokenizer
    prompt: str
    prompt_from: str | None
    ids: IntArray
    sample_ids: IntArray
    sample_name: str

    @cached_property
    def maps(self) -> AttentionMaps:
        """Attention of all heads on the text."""
        return read_attention(self.model, self.tokenizer, self.ids)

    @cached_property
    def roles(self) -> HeadRoles:
        """What each head does."""
        return read_roles(self.model, self.sample_ids, self.sample_name)

    @cached_property
    def lens(self) -> LogitLens:
        """What each layer would predict next."""
        return read_logit_lens(self.model, self.ids).named(self.ids, self.tokenizer.piece)

    @cached_property
    def ablation(self) -> Ablation | None:
        """How much the loss rises when each head is off; None if there is no target to score."""
        return ablate_heads(self.model, self.sample_ids, self.sample_name)

    @cached_property
    def film(self) -> Film:
        """What training kept of its moments.

        Raises:
            BadInputError: it kept nothing.
        """
        run = find_run(self.checkpoint.resolve())
        film = None if run is None else read_film(run.film_file)
        if film is None:
            what = f"{self.checkpoint} is in no run" if run is None else f"{run.path} has no film"
            raise BadInputError(what, NO_FILM)
        return film

    @cached_property
    def mask_check(self) -> MaskCheck:
        """Whether any logit depends on a later token, in the model and in what trained it."""
        run = find_run(self.checkpoint)
        if run is None:
            return check_mask(self.model, self.ids)
        train = run.read_config().train
        compute = choose_compute(self.model.embedding.weight.device.type, train.dtype)
        return check_mask(self.model, self.ids, compute=compute, engine=train.engine)

    def attribution(self, position: int = -1, answer: str | None = None) -> Attribution:
        """What each part adds to the logit of the token after a position: `attribute`.

        The token is the likeliest if no answer is given; errors are those of `answer_id`.
        """
        ids = self.ids[: position % len(self.ids) + 1]
        token = self.answer_id(answer)
        if token is None:
            token = int(record(self.model, ids)[1][-1].argmax())
        return attribute(self.model, ids, token, self.tokenizer.piece(token))

    def patcher(self, corrupted: str, answer: str | None = None) -> Patcher:
        """This text as the clean prompt beside a corrupted one: `Patcher`, with its errors."""
        ids = self.tokenizer.encode(corrupted).astype(np.int64)
        require_fits(len(ids), self.model.config)
        return Patcher(self.model, self.ids, ids, self.answer_id(answer))

    def answer_id(self, answer: str | None) -> int | None:
        """The id of a token's text; BadInputError if the tokenizer makes other than one of it."""
        if answer is None:
            return None
        ids = self.tokenizer.encode(answer)
        if len(ids) != 1:
            raise BadInputError(
                f"the answer {answer!r} is {len(ids):,} tokens, and one is followed",
                "Give the text of one token; within a text, a word often begins with its space",
            )
        return int(ids[0])

    def choose(self, layer: Index = None, head: Index = None) -> tuple[int, int, str | None]:
        """The head asked for; where layer or head is no number, the most telling one that fits.

        Returns:
            Its layer, its number, and why this one if it was not asked for.

        Raises:
            BadInputError: when there is no such layer or head.
        """
        self.require_heads(layer, head)
        layer = layer if isinstance(layer, int) else None
        head = head if isinstance(head, int) else None
        if layer is not None and head is not None:
            return layer, head, None
        where = "" if head is None else f" numbered {head}"
        where = where if layer is None else f" of layer {layer}"
        fitting = (
            each
            for each in self.roles.heads
            if layer in (None, each.layer) and head in (None, each.head)
        )
        best = HeadRoles(tuple(fitting), self.roles.measured_on).most_telling()
        if best is None:
            reason = f"the first head{where}; the context is too short to tell what heads do"
            return layer or 0, head or 0, reason
        if best.role is None:
            return best.layer, best.head, f"the first head{where}; none has a role that stands out"
        return best.layer, best.head, f"the strongest {best.role} head{where}"

    def require_heads(self, layer: Index, head: Index) -> None:
        """Refuse the number of a layer or a head that the model does not have."""
        n_layers, n_heads = self.model.config.n_layers, self.model.config.n_heads
        for name, number, count in (("layer", layer, n_layers), ("head", head, n_heads)):
            if isinstance(number, int):
                require_existing(name, number, count)


def open_study(
    checkpoint: Path,
    prompt: str | None = None,
    prompt_tokens: int = SHORT_PROMPT,
    device: str = "cpu",
) -> AttentionStudy:
    """Load a model of a checkpoint directory, in float32, and the text to look at.

    Prompt and errors are those of `study_model`.
    """
    # Also one that broke: what became of it is to be seen.
    loaded = open_checkpoint(checkpoint, device, allow_nonfinite=True)
    return study_model(loaded, prompt, prompt_tokens)


def study_model(
    loaded: LoadedModel,
    prompt: str | None = None,
    prompt_tokens: int = SHORT_PROMPT,
    stand_in: str | None = None,
) -> AttentionStudy:
    """Look inside a model as it is in memory, while it reads a prompt.

    Without one it reads the beginning of its run's holdout, of at most `prompt_tokens` tokens; and
    without a holdout `stand_in`, or the first token if the vocabulary lacks that.

    Raises:
        BadInputError: the prompt is empty, longer than the context, or has characters that the
            tokenizer never saw; or there is no prompt and no holdout.
    """
    directory, model, tokenizer = loaded.directory, loaded.model, loaded.tokenizer
    sample_ids = tokenizer.encode(_holdout(directory), unknown="replace").astype(np.int64)
    prompt_from, sample_name = None, "the holdout"
    if prompt is None and not len(sample_ids) and stand_in is not None:
        prompt = tokenizer.piece(0) if tokenizer.unknown_characters(stand_in) else stand_in
    if prompt is not None:
        ids = tokenizer.encode(prompt).astype(np.int64)
    elif len(sample_ids):
        limit = min(prompt_tokens, model.config.context_length)
        start = _line_start(sample_ids, tokenizer.piece)
        ids = _whole_words(sample_ids[start : start + limit], tokenizer.piece)
        prompt, prompt_from = tokenizer.decode(ids), "the beginning of the holdout"
    else:
        raise BadInputError(
            f"no prompt was given, and {directory} has no holdout to take one from",
            "Give a text with --prompt",
        )
    require_fits(len(ids), model.config)
    if len(sample_ids) < len(ids):
        sample_ids, sample_name = ids, "the prompt"
    return AttentionStudy(
        directory, model, tokenizer, prompt, prompt_from, ids, sample_ids, sample_name
    )


def choose_maps(
    study: AttentionStudy, kind: MapKind, layer: Index = None, head: Index = None
) -> tuple[list[ChosenMap], str | None]:
    """The maps that a layer, a head and a kind name; and why these, if they were not asked for.

    For weights and norms, None lets the most telling head be chosen and `all` takes every one.
    An average is over the heads of a layer, or of all layers (None). A rollout runs up to a
    layer, or to the last (None).

    Raises:
        BadInputError: when there is no such layer or head, or a head is given to an average or
            a rollout, which have none.
    """
    study.require_heads(layer, head)
    if kind == "norm":
        refuse_own(study.model, "--norms")
    n_layers, n_heads = study.model.config.n_layers, study.model.config.n_heads
    layers: Sequence[int | None] = [layer] if isinstance(layer, int) else range(n_layers)
    heads: Sequence[int | None] = [head] if isinstance(head, int) else range(n_heads)
    reason = None
    if kind in ("average", "rollout"):
        if head is not None:
            raise BadInputError(f"--{kind} takes all heads together", "Leave out --head")
        heads = [None]
        if layer is None:
            layers = [None] if kind == "average" else [n_layers - 1]
    elif "all" not in (layer, head):
        chosen_layer, chosen_head, reason = study.choose(layer, head)
        layers, heads = [chosen_layer], [chosen_head]
    maps = study.maps
    rollout = maps.rollout() if kind == "rollout" else ()
    read: Callable[[Any, Any], Float32Array] = {
        "weight": maps.head,
        "norm": maps.norms,
        "average": lambda i, _: maps.average(i),
        "rollout": lambda i, _: rollout[i],
    }[kind]
    return [ChosenMap(kind, i, j, read(i, j), maps.tokens) for i in layers for j in heads], reason


def save_maps(study: AttentionStudy, path: Path) -> None:
    """Write the maps as a NumPy archive: weights, norms, rollout, ids, tokens (UTF-8 strings).

    Raises:
        BadInputError: when the file can't be written.
    """
    maps = study.maps
    norms, tokens = maps.weights * maps.value_lengths[:, :, None, :], np.array(maps.tokens, np.str_)
    with writing_where_asked(path) as whole, whole.open("wb") as file:
        np.savez_compressed(
            file, weights=maps.weights, norms=norms, rollout=maps.rollout(), ids=maps.ids,
            tokens=tokens,
        )  # fmt: skip


def _holdout(checkpoint: Path) -> str:
    """Text of the holdout part that the run keeps, as far as it is needed; empty without a run."""
    run = find_run(checkpoint.resolve())
    if run is None or not (path := run.data / "holdout.txt").is_file():
        return ""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return file.read(_HOLDOUT_CHARACTERS)
    except (OSError, ValueError) as error:
        raise DamagedFileError(
            f"{path} can't be used: {describe_damage(error)}",
            "Restore the data directory of the run",
        ) from None


def _line_start(ids: IntArray, piece: Callable[[int], str]) -> int:
    """Position of the first whole line: the split may have cut one."""
    for start in range(1, min(len(ids) // 2, _SEARCHED)):
        before, first = piece(int(ids[start - 1])), piece(int(ids[start]))
        if before.endswith("\n") and not first[:1].isspace():
            return start
    return 0


def _whole_words(ids: IntArray, piece: Callable[[int], str]) -> IntArray:
    """Drop a word that the cut may have broken, unless that drops much."""
    for length in range(len(ids) - 1, len(ids) * 2 // 3, -1):
        if piece(int(ids[length]))[:1].isspace():
            return ids[:length]
    return ids
