import json
import math

import numpy as np
import pytest

from minitx.inspection.head_roles import HeadRole, HeadRoles, RoleScore, layer_scores, name_role
from minitx.inspection.probe_texts import repeat_probe
from minitx.inspection.roles import HEAD_ROLES, LayerPatterns, Role

PERIOD, SEQ, BATCH = 16, 64, 16
RNG = np.random.default_rng(0)


def softmax(scores):
    seq = scores.shape[-1]
    scores = np.where(np.tril(np.ones((seq, seq), bool)), scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return (weights / weights.sum(axis=-1, keepdims=True)).astype(np.float32)


def look(target, seq, batch=BATCH, sharp=12.0):
    """Weights (batch, 1, seq, seq) of a head that looks where `target(b, i, j)` says, noisily."""
    wanted = np.array(
        [[[target(b, i, j) for j in range(seq)] for i in range(seq)] for b in range(batch)], float
    )
    return softmax(sharp * wanted + RNG.normal(0, 0.3, wanted.shape))[:, None]


def scores_of(head, ids=None):
    """All scores of one planted head, a function of token ids -> target(b, i, j)."""
    probe = repeat_probe(500, 2 * PERIOD, BATCH, seed=1)
    text = np.random.default_rng(2).integers(0, 500, (BATCH, SEQ))
    repeated = look(head(probe.repeated), 2 * PERIOD)
    control = look(head(probe.control), 2 * PERIOD)
    found = layer_scores(LayerPatterns(repeated, control, look(head(text), SEQ)))
    return {role: RoleScore(float(s[0]), float(c[0])) for role, (s, c) in found.items()}


def text_scores(weights):
    return layer_scores(LayerPatterns(text=weights))


def positional_scores(weights):
    return HEAD_ROLES.get("positional").scores(LayerPatterns(control=weights))


def after_earlier(ids):
    return lambda b, i, j: j > 0 and j <= i and ids[b, j - 1] == ids[b, i] and j - 1 < i


def earlier(ids):
    return lambda b, i, j: j < i and ids[b, j] == ids[b, i]


PLANTED = {
    "induction": after_earlier,
    "duplicate token": earlier,
    "previous token": lambda ids: lambda b, i, j: j == i - 1,
    "current token": lambda ids: lambda b, i, j: j == i,
    "first token": lambda ids: lambda b, i, j: j == 0,
    "local": lambda ids: lambda b, i, j: 0 <= i - j < 5,
    "positional": lambda ids: lambda b, i, j: j % 7 == i % 7 and i - j > 6,
    "uniform": lambda ids: lambda b, i, j: 0,
}


@pytest.mark.parametrize("role", PLANTED)
def test_a_planted_head_gets_its_name(role):
    assert name_role(scores_of(PLANTED[role])) == role


def test_a_head_that_looks_by_content_alone_gets_no_name():
    def rare(ids):
        return lambda b, i, j: ids[b, j] < 60

    assert name_role(scores_of(rare)) is None


def test_an_offset_without_repetition_is_not_induction():
    # A head that always looks `period - 1` back hits every induction target; so does the control.
    scores = scores_of(lambda ids: lambda b, i, j: i - j == PERIOD - 1)
    assert scores["induction"].score > 0.8
    assert abs(scores["induction"].strength) < 0.1
    assert name_role(scores) not in ("induction", "duplicate token")


def test_scores_and_controls_are_what_brute_force_says():
    weights = softmax(np.random.default_rng(5).normal(size=(3, 2, 20, 20)))
    found = text_scores(weights)
    for head in range(2):
        expected, even, entropy = [], [], []
        for b in range(3):
            for i in range(10, 20):
                row = weights[b, head, i].astype(float)
                expected.append(row[i - 1])
                even.append(1 / (i + 1))
                entropy.append(-sum(w * math.log(w) for w in row if w > 0) / math.log(i + 1))
        assert found["previous token"][0][head] == pytest.approx(np.mean(expected), rel=1e-5)
        assert found["previous token"][1][head] == pytest.approx(np.mean(even), rel=1e-5)
        assert found["uniform"][0][head] == pytest.approx(np.mean(entropy), rel=1e-5)
    assert "local" not in found


def test_the_control_of_uniform_is_the_entropy_of_random_weights():
    rng, shares = np.random.default_rng(1), []
    for i in range(10, 20):
        rows = rng.dirichlet(np.ones(i + 1), size=5_000)
        entropy = -(rows * np.log(np.maximum(rows, 1e-300))).sum(axis=1).mean()
        shares.append(entropy / math.log(i + 1))
    found = text_scores(softmax(np.zeros((1, 1, 20, 20))))
    assert found["uniform"][1][0] == pytest.approx(np.mean(shares), abs=0.002)
    assert found["uniform"][0][0] == pytest.approx(1.0, abs=1e-6)


def test_positional_score_is_one_for_a_fixed_pattern_and_none_for_chance():
    fixed = softmax(np.random.default_rng(0).normal(0, 3, (1, 1, 24, 24)))
    score, control = positional_scores(np.repeat(fixed, 8, axis=0))
    assert score[0] == pytest.approx(1.0, abs=1e-6)
    assert control[0] < 0.3
    score, _ = positional_scores(softmax(np.random.default_rng(0).normal(0, 3, (8, 1, 24, 24))))
    assert score[0] < 0.1


def test_strength_is_zero_at_chance_and_one_at_the_top():
    assert RoleScore(0.2, 0.2).strength == 0
    assert RoleScore(1.0, 0.2).strength == 1
    assert RoleScore(1.0, 1.0).strength == 0
    assert RoleScore(0.1, 0.2).strength < 0


def head(layer, index, role, score):
    scores = {role: RoleScore(score, 0.0)} if role else {}
    return HeadRole(layer, index, role, scores)


def test_the_head_shown_first_is_the_strongest_of_the_most_telling_role():
    heads = (
        head(0, 0, "first token", 0.99),
        head(0, 1, "previous token", 0.6),
        head(1, 0, "previous token", 0.9),
        head(1, 1, None, 0.0),
    )
    assert HeadRoles(heads, "").most_telling() is heads[2]
    assert HeadRoles(heads[3:], "").most_telling() is heads[3]
    assert HeadRoles((), "").most_telling() is None
    assert HeadRoles(heads, "").of(0, 1) is heads[1]
    assert HeadRoles(heads, "").of(7, 1) is None


def test_a_role_from_outside_the_package_is_measured_and_shown(minitx, tiny_run, monkeypatch):
    HEAD_ROLES.names()
    monkeypatch.setattr(HEAD_ROLES, "_kinds", dict(HEAD_ROLES._kinds))

    @Role("second token", rank=45, is_specific=True, short_name="second", column="2nd")
    def second_token(patterns):
        score = patterns.text[:, :, 2:, 1].mean(axis=(0, 2))
        return score, np.full_like(score, -1.0)

    found = json.loads(minitx("attn", tiny_run, "--roles", "--json").out)["roles"]["heads"]
    assert [one["scores"]["second token"]["control"] for one in found] == [-1.0] * len(found)
    assert all(len(one["scores"]) > 5 for one in found)
    shown = minitx("attn", tiny_run, "--roles").out
    assert "2nd" in shown
    assert "second token" in shown
