import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from minitx.inspection.attention_maps import AttentionMaps


def attention_rollout(weights):
    return AttentionMaps((), np.empty(0), weights, np.empty(0)).rollout()


def causal(rng, *shape):
    weights = np.tril(rng.random(shape)) + 1e-9 * np.tril(np.ones(shape))
    return (weights / weights.sum(axis=-1, keepdims=True)).astype(np.float32)


def paths(weights, layer, i, j):
    """Rollout by its meaning: follow every path from i down to j, half of each step staying."""
    if layer < 0:
        return 1.0 if i == j else 0.0
    mean = weights[layer].mean(axis=0)
    total = 0.5 * paths(weights, layer - 1, i, j)
    for k in range(i + 1):
        total += 0.5 * mean[i, k] * paths(weights, layer - 1, k, j)
    return total


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_rollout_is_the_sum_over_all_paths(n_layers, n_heads, seq, seed):
    weights = causal(np.random.default_rng(seed), n_layers, n_heads, seq, seq)
    rolled = attention_rollout(weights)
    for layer in range(n_layers):
        for i in range(seq):
            for j in range(seq):
                assert abs(rolled[layer, i, j] - paths(weights, layer, i, j)) < 1e-6


def test_rollout_rows_sum_to_one_and_never_look_ahead():
    rolled = attention_rollout(causal(np.random.default_rng(0), 6, 4, 40, 40))
    np.testing.assert_allclose(rolled.sum(axis=-1), 1.0, atol=1e-6)
    assert (np.triu(rolled, 1) == 0).all()


def test_rollout_of_heads_that_look_at_themselves_is_the_identity():
    weights = np.broadcast_to(np.eye(5, dtype=np.float32), (3, 2, 5, 5))
    np.testing.assert_array_equal(attention_rollout(weights), np.broadcast_to(np.eye(5), (3, 5, 5)))
