"""Attention rollout: how much of each token's final state traces back to each input token.

One layer's attention says where a head looks in that layer's input, which is itself a mixture of
earlier tokens. Rollout multiplies the layers together (Abnar and Zuidema 2020, section 3):

    A'_l = (mean over heads of A_l + I) / 2        the residual stream counts as looking at oneself
    R_l  = A'_l R_(l-1),  R_0 = I
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]


def attention_rollout(weights: FloatArray) -> FloatArray:
    """Roll attention out through the layers.

    Args:
        weights: (n_layers, n_heads, seq, seq), each row summing to 1.

    Returns:
        (n_layers, seq, seq): entry [l, i, j] is the part of token j in position i after layer l.
        Rows sum to 1, and later tokens have no part. Computed in float64.
    """
    n_layers, _, seq, _ = weights.shape
    identity = np.eye(seq)
    flow = identity
    rolled = np.empty((n_layers, seq, seq), dtype=np.float32)
    for layer in range(n_layers):
        mixed = (weights[layer].mean(axis=0, dtype=np.float64) + identity) / 2
        flow = mixed @ flow
        rolled[layer] = flow
    return rolled
