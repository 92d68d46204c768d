"""Keep the film of a run while it trains: when a moment is due, and what is kept of it.

The moments follow from the step and the planned steps, so they are the same in a run that was
killed and resumed. How many there are follows from what they cost beside the steps, as counted in
operations: nothing is measured, so that the same seed gives the same film.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from minitx.config import ModelConfig, SamplingConfig, TrainConfig
from minitx.errors import BadInputError
from minitx.evaluation.arrays import Float32Array, GroupedSums, IdArray, IntArray
from minitx.evaluation.breakdown import CLASS_GROUPS, CLASSES, TokenClasses, group_losses
from minitx.generation.generate_text import continue_ids
from minitx.inspection.attention_maps import quantise, traced
from minitx.inspection.film import LensMoment, Moment
from minitx.inspection.head_roles import HeadRole, measure_heads
from minitx.inspection.logit_lens import lens_of
from minitx.inspection.probe_texts import repeat_probe, text_windows
from minitx.inspection.roles import LayerPatterns
from minitx.model import Transformer, evaluating
from minitx.tokenizer import Tokenizer

SHARE = 0.01
"""Part of a run's time that its film may take."""

MOST, FEWEST = 40, 4
"""Moments of a film, about; where there is time for fewer, there is none."""

TEXT, SAMPLE = 48, 24
"""Most tokens of the prompt and of each other text, and of the prompt's continuation."""

WINDOWS, PROBES, LENS_POSITIONS, LENS_GUESSES = 4, 3, 6, 3
"""Windows of text that are scored and looked at; repeated texts; and what the lens keeps."""

MAP_BYTES = 50_000
"""Of all maps of a moment."""

EARLY = 8
"""Steps after which moments begin to stand further apart."""

# Of a moment beside the steps of the run: the plain model in float32 beside what trains; and what
# a layer takes in a step and in a moment whatever its size, in operations of such a device.
_SLOWER = 4.0
_OF_STEP = {"cpu": 3e7}
_OF_MOMENT = {"cpu": 2.2e9}
_OF_STEP_ELSEWHERE, _OF_MOMENT_ELSEWHERE = 1e10, 2e12


def moment_count(model: ModelConfig, train: TrainConfig, steps: int, device: str) -> int:
    """Moments after the first, in at most `SHARE` of the time of so many steps; 0 for no film."""
    # The prompt, the windows, the repeated texts and their controls are read in one pass.
    tokens = (1 + WINDOWS + 2 * PROBES) * min(TEXT, model.context_length) + SAMPLE
    moment = tokens * _SLOWER * model.flops_per_token / 3
    moment += model.n_layers * _OF_MOMENT.get(device, _OF_MOMENT_ELSEWHERE)
    step = train.batch_size * train.accumulation * model.context_length * model.flops_per_token
    step += model.n_layers * _OF_STEP.get(device, _OF_STEP_ELSEWHERE)
    # One more is before the first step.
    count = min(MOST, int(SHARE * steps * step / moment) - 1)
    return count if count + 1 >= FEWEST else 0


def planned_steps(steps: int) -> float:
    """The steps of a run, rounded down to half a power of two.

    So moments stay where they are while a clock that ends a run estimates its steps anew.
    """
    return float(2 ** (math.floor(2 * math.log2(steps)) / 2))


def is_moment(step: int, planned: float, count: int) -> bool:
    """Whether one of about `count` moments of a run is due after `step` steps.

    One is before the first step. Of the others, half stand evenly, and half at steps that grow by
    a factor.
    """

    def passed(step: int) -> float:
        early = math.log1p(step / EARLY) / math.log1p(planned / EARLY)
        return count * (step / planned + early) / 2

    return count > 0 and (step == 0 or math.floor(passed(step)) > math.floor(passed(step - 1)))


class FilmRecorder:
    """Looks at a model in training, and leaves it as it is.

    Args:
        text_ids: `(tokens,)` to take prompt and windows from: the holdout.
        write: takes each line.
        last_step: of the newest moment that is kept already; -1 if there is none.
    """

    def __init__(
        self,
        model: Transformer,
        tokenizer: Tokenizer,
        text_ids: IdArray,
        train: TrainConfig,
        write: Callable[[dict[str, Any]], None],
        last_step: int = -1,
    ) -> None:
        self._model, self._tokenizer, self._train = model, tokenizer, train
        self._write, self._last_step = write, last_step
        config = model.config
        length = min(TEXT, config.context_length, len(text_ids))
        self._windows = text_windows(text_ids, max(1, length), WINDOWS if length > 1 else 0)
        self._prompt = self._chosen_prompt(text_ids)
        texts = {"prompt": self._prompt[None], "text": self._windows}
        probe = repeat_probe(config.vocab_size, min(TEXT, config.context_length), PROBES, 0)
        if probe is not None:
            texts |= {"repeated": probe.repeated, "control": probe.control}
        # All in one pass, where nothing of a text's end is seen before it.
        self._places = dict[str, tuple[slice, int]]()
        rows = list[IntArray]()
        for name, ids in texts.items():
            if ids.size:
                self._places[name] = slice(len(rows), len(rows) + len(ids)), ids.shape[1]
                rows += list(ids)
        longest = max(map(len, rows), default=0)
        self._rows = np.array([np.resize(row, longest) for row in rows], dtype=np.int64)

    @cached_property
    def _classes(self) -> TokenClasses:
        return TokenClasses(self._tokenizer)

    def record(self, step: int, steps: int) -> bool:
        """Keep a moment if one is due after `step` of `steps` steps; whether it was."""
        model, train = self._model, self._train
        planned, device = planned_steps(steps), model.embedding.weight.device.type
        count = moment_count(model.config, train, int(planned), device)
        # A film that was begun has an end, also where a budget came to fewer steps than it seemed.
        is_last = step == steps and (count > 0 or self._last_step >= 0)
        is_due = step > self._last_step and (is_last or is_moment(step, planned, count))
        if is_due and len(self._prompt):
            self._write(self.look(step).to_line())
            self._last_step = step
        return is_due

    def look(self, step: int) -> Moment:
        """What is seen now."""
        model, shape = self._model, (self._model.config.n_layers, self._model.config.n_heads)
        packed, heads, streams = b"", tuple[HeadRole, ...](), list[Tensor]()
        try:
            trace = traced(model, self._rows)
            maps = [self._seen(layer, "prompt")[0] for layer in trace.attention]
            packed = quantise(np.concatenate(maps)).tobytes()
            names = [name for name in self._places if name != "prompt"]
            patterns = (
                LayerPatterns(**{name: self._seen(layer, name) for name in names})
                for layer in trace.attention
            )
            heads, streams = measure_heads(patterns, shape[1]), trace.residual
        except BadInputError:
            shape = (0, 0)  # A model of one's own that shows no attention.
        loss, classes = self._losses(streams)
        return Moment(
            step=step,
            tokens=tuple(map(self._tokenizer.piece, self._prompt.tolist())),
            layers=shape[0],
            heads=shape[1],
            roles=tuple(head.role for head in heads),
            strengths=tuple(_rounded(_strength(head, head.role)) for head in heads),
            induction=tuple(
                _rounded(_strength(head, "induction"))
                for head in heads
                if "induction" in head.scores
            ),
            loss=_rounded(loss),
            classes=classes,
            lens=self._lens(streams),
            sample=self._sample(),
            maps=base64.b64encode(packed).decode("ascii"),
        )

    def _chosen_prompt(self, text_ids: IdArray) -> IntArray:
        # As long as the maps of all heads allow, and room is left to go on; from the beginning of a
        # line if one is near.
        config, piece = self._model.config, self._tokenizer.piece
        cells = MAP_BYTES // (config.n_layers * config.n_heads)
        length = min(TEXT, max(8, int(math.sqrt(2 * cells)) - 1), config.context_length * 2 // 3)
        length = min(max(1, length), len(text_ids))
        last = len(text_ids) - length
        start = int(np.random.default_rng(self._train.seed).integers(last + 1))
        for begin in range(max(1, start), min(last, start + 200) + 1):
            if (
                piece(int(text_ids[begin - 1])).endswith("\n")
                and piece(int(text_ids[begin])).strip()
            ):
                start = begin
                break
        return np.asarray(text_ids[start : start + length]).astype(np.int64)

    def _seen(self, layer: Tensor, name: str) -> Float32Array:
        rows, width = self._places[name]
        return np.asarray(layer[rows, :, :width, :width].float().cpu().numpy())

    @torch.inference_mode()
    def _losses(self, streams: Sequence[Tensor]) -> tuple[float, dict[str, float]]:
        model, windows = self._model, self._windows
        if not len(windows):
            return math.nan, {}
        ids = torch.from_numpy(windows).to(model.embedding.weight.device)
        with evaluating(model):
            if streams:
                rows, width = self._places["text"]
                logits = model.unembed(streams[-1][rows, : width - 1]).float()
                of_each = F.cross_entropy(logits.mT, ids[:, 1:], reduction="none")
            else:  # A model of one's own.
                of_each = model.token_losses(ids[:, :-1], ids[:, 1:]).float()
        losses = of_each.cpu().numpy().ravel()
        sums = GroupedSums(len(CLASSES))
        sums.add(self._classes.of(windows[:, 1:].ravel(), windows[:, :-1].ravel()), losses)
        groups = group_losses(sums, CLASS_GROUPS)
        return float(losses.mean()), {group.name: _rounded(group.loss) for group in groups}

    def _lens(self, streams: Sequence[Tensor]) -> tuple[LensMoment, ...]:
        if not streams:
            return ()
        piece, start = self._tokenizer.piece, max(0, len(self._prompt) - 1 - LENS_POSITIONS)
        ids = self._prompt[start:]
        read = [stream[:1, start : len(self._prompt)] for stream in streams]
        lens = lens_of(self._model, ids, read, LENS_GUESSES).named(ids, piece)
        return tuple(
            LensMoment(
                position=start + at,
                following=piece(int(ids[at + 1])),
                chances=tuple(map(_rounded, lens.next_probability[:, at].tolist())),
                likeliest=tuple(
                    tuple((lens.piece(int(i)), _rounded(p)) for i, p in zip(*guesses, strict=True))
                    for guesses in zip(
                        lens.top_ids[:, at], lens.top_probabilities[:, at].tolist(), strict=True
                    )
                ),
            )
            for at in range(len(ids) - 1)
        )

    def _sample(self) -> str:
        tokens = min(SAMPLE, self._model.config.context_length - len(self._prompt))
        if tokens < 1:
            return ""
        config = SamplingConfig(temperature=0.0, max_new_tokens=tokens)
        try:
            return continue_ids(self._model, self._tokenizer, self._prompt.tolist(), config)
        except BadInputError:
            return ""  # Of logits that are NaN.


def _strength(head: HeadRole, role: str | None) -> float:
    return head.scores[role].strength if role is not None else 0.0


def _rounded(value: float) -> float:
    return round(value, 4)
