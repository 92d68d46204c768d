"""What job each head of a model does: the scores of all roles, and the role they add up to.

`roles/` has the roles. The `strength` of a score is what is left of it beyond its control, as a
share of what could be left (like Cohen's kappa): 0 is chance, 1 is a head that does nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from minitx.evaluation.arrays import IdArray, IntArray
from minitx.inspection.attention_maps import traced
from minitx.inspection.probe_texts import RepeatProbe, repeat_probe, text_windows, windows_in_words
from minitx.inspection.roles import LayerPatterns, Scores, all_roles
from minitx.model import Transformer
from minitx.shown import Shown

NAMED_FROM = 0.3
"""A head is named after a role from this strength on; after one that names no place, from twice."""

MIN_QUERY = 8
PROBES = 16
TEXT_WINDOWS = 16
TEXT_LENGTH = 128


@dataclass(frozen=True)
class RoleScore:
    """How far a head has one role: its score, and the score without that role."""

    score: float
    control: float

    @property
    def strength(self) -> float:
        """What the score has beyond its control, as a share of what it could have."""
        # With a control near the top there is no room to tell; noise must not be blown up.
        return (self.score - self.control) / max(1.0 - self.control, 0.05)


@dataclass(frozen=True)
class HeadRole:
    """The scores of one head, and the role they add up to.

    Attributes:
        role: the role it is named after, or None if no score stands out.
        scores: each measured role's score and control; a role that the context is too short to
            measure is missing.
    """

    layer: int
    head: int
    role: str | None
    scores: Mapping[str, RoleScore]


@dataclass(frozen=True)
class HeadRoles(Shown):
    """The roles of all heads, layer by layer.

    Attributes:
        heads: in order of layer and head; empty where the context is too short to tell.
        measured_on: in words, the texts that the scores were taken from.
    """

    heads: tuple[HeadRole, ...]
    measured_on: str

    @property
    def measured(self) -> list[str]:
        """Names of the roles that were measured, the most telling first."""
        return [role for role in all_roles() if any(role in head.scores for head in self.heads)]

    def of(self, layer: int, head: int) -> HeadRole | None:
        """The role of one head, if it was measured."""
        return next((one for one in self.heads if (one.layer, one.head) == (layer, head)), None)

    def most_telling(self) -> HeadRole | None:
        """The head worth showing first: the strongest of the most telling role there is."""
        for role in all_roles():
            named = [head for head in self.heads if head.role == role]
            if named:
                return max(named, key=lambda head: head.scores[role].strength)
        return self.heads[0] if self.heads else None


def name_role(scores: Mapping[str, RoleScore]) -> str | None:
    """The role that a head's scores add up to.

    Roles that name one place to look win over those that name a region or the lack of any; among
    the former the strongest wins.
    """
    roles = {name: role for name, role in all_roles().items() if name in scores}
    specific = [name for name, role in roles.items() if role.is_specific]
    if specific:
        best = max(specific, key=lambda name: scores[name].strength)
        if scores[best].strength >= NAMED_FROM:
            return best
    for name, role in roles.items():
        if not role.is_specific and scores[name].strength >= 2 * NAMED_FROM:
            return name
    return None


def layer_scores(patterns: LayerPatterns) -> dict[str, Scores]:
    """Scores and controls of the heads of one layer, by role; only what can be measured."""
    scores = {name: role.scores(patterns) for name, role in all_roles().items()}
    return {name: measured for name, measured in scores.items() if measured is not None}


def read_roles(model: Transformer, text_ids: IdArray, text_name: str = "the holdout") -> HeadRoles:
    """Measure the roles of all heads of a model, which is left as it was.

    `text_ids` are (tokens,) of `text_name`, a real text; only some windows are read.
    """
    config = model.config
    probe = repeat_probe(config.vocab_size, config.context_length, PROBES, seed=0)
    length = min(TEXT_LENGTH, config.context_length, len(text_ids))
    count = TEXT_WINDOWS if length >= MIN_QUERY else 0
    windows = text_windows(text_ids, max(1, length), count)
    heads = measure_heads(read_patterns(model, probe, windows), config.n_heads)
    measured_on = [windows_in_words(len(windows), length, text_name)] if len(windows) else []
    if probe is not None:
        measured_on.append(f"{PROBES} texts of {probe.period} random tokens, repeated")
    in_words = " and ".join(measured_on) or "nothing: the context is too short"
    return HeadRoles(heads, in_words)


def measure_heads(layers: Iterable[LayerPatterns], n_heads: int) -> tuple[HeadRole, ...]:
    """The roles that these patterns show, layer by layer."""
    heads = []
    for layer, patterns in enumerate(layers):
        measured = layer_scores(patterns)
        for head in range(n_heads if measured else 0):
            scores = {
                role: RoleScore(float(score[head]), float(control[head]))
                for role, (score, control) in measured.items()
            }
            heads.append(HeadRole(layer, head, name_role(scores), scores))
    return tuple(heads)


def read_patterns(
    model: Transformer, probe: RepeatProbe | None, windows: IntArray
) -> list[LayerPatterns]:
    """What each layer looks at in these texts; `windows` of text are `(windows, tokens)` ids."""
    texts = {"text": windows} if len(windows) else {}
    if probe is not None:
        texts |= {"repeated": probe.repeated, "control": probe.control}
    weights = {name: traced(model, ids).attention for name, ids in texts.items()}
    return [
        LayerPatterns(**{name: layers[i].float().cpu().numpy() for name, layers in weights.items()})
        for i in range(model.config.n_layers)
    ]
