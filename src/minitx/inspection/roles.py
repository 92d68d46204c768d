"""What job a head does, told from where it looks, with a control for each score.

Every score is a share between 0 and 1, averaged over queries, and every control is what the score
would be if the head did *not* have the role. `strength` is what is left beyond the control, as a
share of what could be left (like Cohen's kappa): 0 is chance, 1 is a head that does nothing else.

| role            | score: mean over queries of              | on       | control         |
| --------------- | ---------------------------------------- | -------- | --------------- |
| induction       | weight on the token after its earlier    | repeated | same offset, no |
|                 | occurrence                               | tokens   | repetition      |
| duplicate token | weight on its earlier occurrence         | repeated | same offset, no |
|                 |                                          | tokens   | repetition      |
| previous token  | weight on the token before it            | text     | even attention  |
| current token   | weight on itself                         | text     | even attention  |
| first token     | weight on position 0 (a sink)            | text     | even attention  |
| local           | weight on the last 8 tokens, itself too  | text     | even attention  |
| positional      | share of the pattern's variation that    | random   | the same, rows  |
|                 | position alone foretells                 | tokens   | shuffled        |
| uniform         | entropy as a share of the largest        | text     | random weights  |

Sources: previous-token and induction heads, Elhage et al. 2021 and Olsson et al. 2022;
duplicate-token heads, Wang et al. 2022, section 3; attention sinks, Xiao et al. 2023; positional
heads, Voita et al. 2019, section 4.1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from minitx.inspection.probe_texts import RepeatProbe, repeat_probe, text_windows
from minitx.shown import Shown

if TYPE_CHECKING:
    from minitx.model import Transformer

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

Role = Literal[
    "induction",
    "duplicate token",
    "previous token",
    "current token",
    "first token",
    "local",
    "positional",
    "uniform",
]
ROLES: tuple[Role, ...] = (
    "induction",
    "duplicate token",
    "previous token",
    "current token",
    "first token",
    "local",
    "positional",
    "uniform",
)
_SPECIFIC = ROLES[:5]

NAMED_FROM = 0.3
"""A head is given a role's name from this strength on."""

LOCAL_SPAN = 8
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
        # With the control at the top there is no room to tell; noise must not be blown up.
        return (self.score - self.control) / max(1.0 - self.control, 0.05)


@dataclass(frozen=True)
class HeadRole:
    """The scores of one head, and the role they add up to.

    Attributes:
        layer, head: which head.
        role: the role it is named after, or None if no score stands out.
        scores: each measured role's score and control; a role that the context is too short to
            measure is missing.
    """

    layer: int
    head: int
    role: Role | None
    scores: Mapping[Role, RoleScore]

    @property
    def strength(self) -> float:
        """Strength of the named role; 0 without a name."""
        return self.scores[self.role].strength if self.role else 0.0


@dataclass(frozen=True)
class HeadRoles(Shown):
    """The roles of all heads, layer by layer.

    Attributes:
        heads: in order of layer and head; empty where the context is too short to tell.
        measured_on: in words, the texts that the scores were taken from.
    """

    heads: tuple[HeadRole, ...]
    measured_on: str

    def of(self, layer: int, head: int) -> HeadRole | None:
        """The role of one head, if it was measured."""
        for one in self.heads:
            if (one.layer, one.head) == (layer, head):
                return one
        return None

    def most_telling(self) -> HeadRole | None:
        """The head worth showing first: the strongest of the most interesting role found."""
        for role in ROLES:
            named = [one for one in self.heads if one.role == role]
            if named:
                return max(named, key=lambda one: one.strength)
        return self.heads[0] if self.heads else None


def name_role(scores: Mapping[Role, RoleScore]) -> Role | None:
    """The role that a head's scores add up to.

    Roles that name one place to look win over those that name a region or the lack of any; among
    the former the strongest wins.
    """
    specific = [role for role in _SPECIFIC if role in scores]
    if specific:
        best = max(specific, key=lambda role: scores[role].strength)
        if scores[best].strength >= NAMED_FROM:
            return best
    general = [role for role in ROLES[5:] if role in scores]
    found = [role for role in general if scores[role].strength >= 2 * NAMED_FROM]
    return found[0] if found else None


def repeat_scores(
    repeated: FloatArray, control: FloatArray, period: int
) -> dict[Role, tuple[FloatArray, FloatArray]]:
    """Induction and duplicate-token scores, with their controls, of the heads of a layer.

    Args:
        repeated: (batch, n_heads, 2 * period, 2 * period) weights on the repeated tokens.
        control: weights on the control of the same shape.
        period: offset of the repetition.

    Returns:
        role -> (score, control), each (n_heads,).
    """
    queries = np.arange(period, 2 * period)
    # The token after the earlier occurrence is one nearer than the occurrence itself.
    targets: dict[Role, npt.NDArray[np.int64]] = {
        "induction": queries - period + 1,
        "duplicate token": queries - period,
    }
    return {
        role: (_mean_at(repeated, queries, keys), _mean_at(control, queries, keys))
        for role, keys in targets.items()
    }


def text_scores(weights: FloatArray) -> dict[Role, tuple[FloatArray, FloatArray]]:
    """Scores of the roles that any text shows, with their controls, of the heads of a layer.

    Only queries in the second half count: near the start of a text every head is local.

    Args:
        weights: (batch, n_heads, seq, seq).

    Returns:
        role -> (score, control), each (n_heads,).
    """
    n_heads, seq = weights.shape[1], weights.shape[2]
    queries = np.arange(seq // 2, seq)
    visible = queries + 1.0
    even = _repeat(float(np.mean(1.0 / visible)), n_heads)
    first = np.zeros_like(queries)
    entropy, entropy_of_chance = _entropy_shares(weights[:, :, queries, :], visible)
    scores: dict[Role, tuple[FloatArray, FloatArray]] = {
        "previous token": (_mean_at(weights, queries, queries - 1), even),
        "current token": (_mean_at(weights, queries, queries), even),
        "first token": (_mean_at(weights, queries, first), even),
        "uniform": (entropy, _repeat(entropy_of_chance, n_heads)),
    }
    if seq >= 4 * LOCAL_SPAN:
        near = sum(_mean_at(weights, queries, queries - back) for back in range(LOCAL_SPAN))
        share = float(np.mean(LOCAL_SPAN / visible))
        scores["local"] = (np.asarray(near, dtype=np.float32), _repeat(share, n_heads))
    return scores


def positional_scores(weights: FloatArray, seed: int = 0) -> tuple[FloatArray, FloatArray]:
    """How much of where a head looks follows from position alone, and the same when shuffled.

    The pattern of each text is foretold by the mean pattern of the others (leave one out); the
    score is the share of its squared distance from even attention that this foretells, at least 0.
    The control shuffles the weights of each row before the same measurement.

    Args:
        weights: (batch, n_heads, seq, seq) on unrelated texts; batch of 2 or more.
        seed: of the shuffle.

    Returns:
        score and control, each (n_heads,).
    """
    return _foretold(weights), _foretold(_shuffled_rows(weights, seed))


def read_roles(
    model: Transformer,
    text_ids: npt.NDArray[np.integer],
    text_name: str = "the holdout",
    seed: int = 0,
) -> HeadRoles:
    """Measure the roles of all heads of a model.

    Args:
        model: any minitx model; left as it was.
        text_ids: (tokens,) of a real text, best of the holdout; only some windows are read.
        text_name: what to call that text.
        seed: of the random tokens.
    """
    config = model.config
    probe = repeat_probe(config.vocab_size, config.context_length, PROBES, seed)
    length = min(TEXT_LENGTH, config.context_length, len(text_ids))
    windows = text_windows(text_ids, max(1, length), TEXT_WINDOWS)
    if length < MIN_QUERY:
        windows = windows[:0]
    scores: list[list[dict[Role, RoleScore]]] = [
        [{} for _ in range(config.n_heads)] for _ in range(config.n_layers)
    ]
    for layer, found in _measure(model, probe, windows, seed):
        for role, (score, control) in found.items():
            for head in range(config.n_heads):
                scores[layer][head][role] = RoleScore(float(score[head]), float(control[head]))
    heads = tuple(
        HeadRole(layer, head, name_role(of_head), of_head)
        for layer, of_layer in enumerate(scores)
        for head, of_head in enumerate(of_layer)
        if of_head
    )
    return HeadRoles(heads, _in_words(probe, windows, text_name))


def _measure(
    model: Transformer, probe: RepeatProbe | None, windows: IntArray, seed: int
) -> list[tuple[int, dict[Role, tuple[FloatArray, FloatArray]]]]:
    found: list[tuple[int, dict[Role, tuple[FloatArray, FloatArray]]]] = []
    if probe is not None:
        repeated = _weights(model, probe.repeated)
        control = _weights(model, probe.control)
        for layer, (one, other) in enumerate(zip(repeated, control, strict=True)):
            scores = repeat_scores(one, other, probe.period)
            scores["positional"] = positional_scores(other, seed)
            found.append((layer, scores))
    if len(windows):
        found.extend((at, text_scores(one)) for at, one in enumerate(_weights(model, windows)))
    return found


def _weights(model: Transformer, ids: IntArray) -> list[FloatArray]:
    """Attention weights of a batch, one (batch, n_heads, seq, seq) array a layer."""
    import torch

    from minitx.inspection.evaluating import evaluating
    from minitx.model import Trace

    trace = Trace()
    device = next(model.parameters()).device
    with torch.inference_mode(), evaluating(model):
        model(torch.from_numpy(ids).to(device), trace=trace)
        return [layer.float().cpu().numpy() for layer in trace.attention]


def _in_words(probe: RepeatProbe | None, windows: IntArray, text_name: str) -> str:
    parts = []
    if len(windows):
        plural = "s" if len(windows) > 1 else ""
        parts.append(f"{len(windows)} window{plural} of {windows.shape[1]} tokens of {text_name}")
    if probe is not None:
        parts.append(f"{PROBES} texts of {probe.period} random tokens, twice")
    return " and ".join(parts) or "nothing: the context is too short"


def _mean_at(
    weights: FloatArray, queries: npt.NDArray[np.integer], keys: npt.NDArray[np.integer]
) -> FloatArray:
    """Mean over batch and queries of the weight on one key for each query, (n_heads,)."""
    picked = weights[:, :, queries, keys]
    return np.asarray(picked.mean(axis=(0, 2), dtype=np.float64), dtype=np.float32)


def _repeat(value: float, n_heads: int) -> FloatArray:
    return np.full(n_heads, value, dtype=np.float32)


def _entropy_shares(rows: FloatArray, visible: npt.NDArray[np.float64]) -> tuple[FloatArray, float]:
    """Entropy over the entropy of even attention, and that of weights drawn at random.

    Random weights are uniform on the simplex, whose mean entropy over k tokens is
    1/2 + 1/3 + ... + 1/k (Jaynes 1968; a Dirichlet distribution of ones).
    """
    weights = rows.astype(np.float64)
    entropy = -np.sum(weights * np.log(np.where(weights > 0, weights, 1.0)), axis=-1)
    largest = np.log(visible)
    harmonic = np.cumsum(1.0 / np.arange(1, int(visible[-1]) + 1)) - 1.0
    chance = harmonic[visible.astype(np.int64) - 1] / largest
    share = np.asarray((entropy / largest).mean(axis=(0, 2)), dtype=np.float32)
    return share, float(chance.mean())


def _foretold(weights: FloatArray) -> FloatArray:
    batch, _, seq, _ = weights.shape
    queries = np.arange(seq // 2, seq)
    rows = weights[:, :, queries, :].astype(np.float64)
    visible = np.arange(seq)[None, :] <= queries[:, None]
    even = np.where(visible, 1.0 / (queries[:, None] + 1.0), 0.0)
    others = (rows.sum(axis=0, keepdims=True) - rows) / (batch - 1)
    missed = ((rows - others) ** 2).sum(axis=(0, 2, 3))
    spread = ((rows - even) ** 2).sum(axis=(0, 2, 3))
    # A head that is even everywhere has no pattern to foretell.
    negligible = 1e-6 * batch * len(queries)
    share = np.where(spread > negligible, 1.0 - missed / np.maximum(spread, 1e-30), 0.0)
    return np.asarray(np.clip(share, 0.0, 1.0), dtype=np.float32)


def _shuffled_rows(weights: FloatArray, seed: int) -> FloatArray:
    """Each row's weights in a random order among the positions it can see."""
    seq = weights.shape[-1]
    keys = np.random.default_rng(seed).random(weights.shape, dtype=np.float32)
    hidden = np.arange(seq)[None, :] > np.arange(seq)[:, None]
    keys[:, :, hidden] = 2.0
    return np.take_along_axis(weights, np.argsort(keys, axis=-1), axis=-1)
