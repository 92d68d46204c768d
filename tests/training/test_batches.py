"""Batches by number, and the same ones prepared ahead."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from minitx.training.batches import Batch, Batches, PrefetchedBatches

CPU = torch.device("cpu")
IDS = np.random.default_rng(0).integers(0, 50, 1_000)
GIVEN = (IDS, 16, 4, 7, CPU)


def test_what_is_prepared_ahead_is_what_is_asked_for_in_any_order() -> None:
    plain = Batches(*GIVEN)
    with PrefetchedBatches(*GIVEN) as ahead:
        # On and on over epochs, back (as after a rollback), and far ahead.
        for number in [*range(40), 3, 4, 5, 900, 0, 1]:
            for mine, theirs in zip(ahead[number], plain[number], strict=True):
                assert torch.equal(mine, theirs)


def test_the_next_batch_is_made_while_the_last_is_in_use() -> None:
    made: list[int] = []
    second = threading.Event()

    class Noted(PrefetchedBatches):
        def _prepared(self, number: int) -> Batch:
            made.append(threading.get_ident())
            if number == 1:
                second.set()
            return super()._prepared(number)

    with Noted(*GIVEN) as ahead:
        ahead[0]
        assert second.wait(10)
    assert set(made).isdisjoint({threading.get_ident()})


def test_a_text_that_cannot_be_read_is_an_error_where_the_batch_is_asked_for() -> None:
    class Torn(PrefetchedBatches):
        def _prepared(self, number: int) -> Batch:
            raise OSError("the disk is gone")

    with Torn(*GIVEN) as ahead, pytest.raises(OSError, match="the disk is gone"):
        ahead[0]
