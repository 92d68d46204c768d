"""What a model must beat to have learned more than which token follows which."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from minitx.evaluation.ngrams import NGrams

Ids = npt.NDArray[np.integer[Any]]

MOST_TRAIN, MOST_HOLDOUT = 1_000_000, 200_000
"""Tokens counted and scored: more would take longer and change little."""


def bigram_loss(train_ids: Ids, holdout_ids: Ids, vocab_size: int) -> float:
    """Loss of an interpolated bigram of the train part on the holdout, nats per token.

    Without a holdout of two tokens it is that on the train part itself.
    """
    text = holdout_ids if len(holdout_ids) > 1 else train_ids
    counted = NGrams(train_ids[:MOST_TRAIN], vocab_size, max_order=2)
    return float(counted.losses(text[:MOST_HOLDOUT])[1].mean())
