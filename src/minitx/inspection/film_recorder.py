"""Keep the film of a run while it trains: when a moment is due, and what is kept of it.

The moments follow from the step and the planned steps, so they are the same in a run that was
killed and resumed. How many there are follows from what they cost beside the steps, as counted in
operations: nothing is measured, so that the same seed gives the same film.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
import torch

from minitx.checkpoint.own_model import OwnModel
from minitx.config import ModelConfig, SamplingConfig, TrainConfig
from minitx.errors import BadInputError
from minitx.evaluation.arrays import GroupedSums, IdArray, IntArray
from minitx.evaluation.breakdown import CLASS_GROUPS, CLASSES, TokenClasses, group_losses
from minitx.generation.generate_text import continue_ids
from minitx.inspection.attention_maps import quantise, traced
from minitx.inspection.film import LensMoment, Moment
from minitx.inspection.head_roles import HeadRole, measure_heads
from minitx.inspection.logit_lens import read_logit_lens
from minitx.inspection.probe_texts import repeat_probe, text_windows
from minitx.model import Transformer, evaluating
from minitx.tokenizer import Tokenizer

SHARE = 0.01
"""Part of a run's time that its film may take."""

MOST, FEWEST = 40, 4
"""Moments of a film, about; where there is time for fewer, there is none."""

PROMPT, SAMPLE, WINDOW = 48, 24, 64
"""Most tokens of the prompt, of its continuation, and of each window that is scored."""

WINDOWS, PROBES, LENS_POSITIONS, LENS_GUESSES = 8, 4, 6, 3
"""Windows that are scored, half of which tell roles; repeated texts; and what the lens keeps."""

MAP_BYTES = 50_000
"""Of all maps of a moment."""

EARLY = 8
"""Steps after which moments begin to stand further apart."""

# Of a moment beside the steps of the run: the plain model in float32 beside what trains; and what
# a layer takes in a step and in a moment whatever its size, in operations of such a device.
_SLOWER = 3.0
_OF_STEP = {"cpu": 3e7}
_OF_MOMENT = {"cpu": 7e8}
_OF_STEP_ELSEWHERE, _OF_MOMENT_ELSEWHERE = 1e10, 2e12


def moment_count(model: ModelConfig, train: TrainConfig, steps: int, device: str) -> int:
    """Moments of a film that take at most `SHARE` of a run of so many steps; 0 for no film."""
    context = min(WINDOW, model.context_length)
    # The windows are scored, and half are looked at; the prompt is, by map and by lens.
    tokens = (1.5 * WINDOWS + 2 * PROBES) * context + 2 * PROMPT + SAMPLE
    moment = tokens * _SLOWER * model.flops_per_token / 3
    moment += model.n_layers * _OF_MOMENT.get(device, _OF_MOMENT_ELSEWHERE)
    step = train.batch_size * train.accumulation * model.context_length * model.flops_per_token
    step += model.n_layers * _OF_STEP.get(device, _OF_STEP_ELSEWHERE)
    count = min(MOST, int(SHARE * steps * step / moment))
    return count if count >= FEWEST else 0


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
        length = min(WINDOW, config.context_length, len(text_ids))
        self._windows = text_windows(text_ids, max(1, length), WINDOWS if length > 1 else 0)
        self._prompt = self._chosen_prompt(text_ids)
        self._probe = repeat_probe(config.vocab_size, min(WINDOW, config.context_length), PROBES, 0)

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
        packed, heads = b"", tuple[HeadRole, ...]()
        try:
            maps = [
                each[0].float().cpu().numpy()
                for each in traced(model, self._prompt[None]).attention
            ]
            packed = quantise(np.concatenate(maps)).tobytes()
            heads = measure_heads(model, self._probe, self._windows)
        except BadInputError:
            shape = (0, 0)  # A model of one's own that shows no attention.
        loss, classes = self._losses()
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
            lens=self._lens(),
            sample=self._sample(),
            maps=base64.b64encode(packed).decode("ascii"),
        )

    def _chosen_prompt(self, text_ids: IdArray) -> IntArray:
        # As long as the maps of all heads allow, and room is left to go on; from the beginning of a
        # line if one is near.
        config, piece = self._model.config, self._tokenizer.piece
        cells = MAP_BYTES // (config.n_layers * config.n_heads)
        length = min(PROMPT, max(8, int(math.sqrt(2 * cells)) - 1), config.context_length * 2 // 3)
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

    @torch.inference_mode()
    def _losses(self) -> tuple[float, dict[str, float]]:
        model, windows = self._model, self._windows
        if not len(windows):
            return math.nan, {}
        ids = torch.from_numpy(windows).to(model.embedding.weight.device)
        with evaluating(model):
            losses = model.token_losses(ids[:, :-1], ids[:, 1:]).float().cpu().numpy().ravel()
        sums = GroupedSums(len(CLASSES))
        sums.add(self._classes.of(windows[:, 1:].ravel(), windows[:, :-1].ravel()), losses)
        groups = group_losses(sums, CLASS_GROUPS)
        return float(losses.mean()), {group.name: _rounded(group.loss) for group in groups}

    def _lens(self) -> tuple[LensMoment, ...]:
        if isinstance(self._model, OwnModel):
            return ()
        ids, piece = self._prompt, self._tokenizer.piece
        lens = read_logit_lens(self._model, ids, LENS_GUESSES).named(ids, piece)
        return tuple(
            LensMoment(
                position=at,
                following=piece(int(ids[at + 1])),
                chances=tuple(map(_rounded, lens.next_probability[:, at].tolist())),
                likeliest=tuple(
                    tuple((lens.piece(int(i)), _rounded(p)) for i, p in zip(*guesses, strict=True))
                    for guesses in zip(
                        lens.top_ids[:, at], lens.top_probabilities[:, at].tolist(), strict=True
                    )
                ),
            )
            for at in range(max(0, len(ids) - 1 - LENS_POSITIONS), len(ids) - 1)
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
