"""Batches by number, and the same ones prepared ahead."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minitx.corpus.training_windows import NO_TARGET
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


@settings(max_examples=80, deadline=None)
@given(
    n=st.integers(2, 200), context=st.integers(1, 40), batch=st.integers(1, 50),
    epochs=st.integers(1, 4), seed=st.integers(0, 2**63 - 1),
)  # fmt: skip
def test_in_so_many_epochs_each_token_is_so_often_a_target(
    n: int, context: int, batch: int, epochs: int, seed: int
) -> None:
    """Also where a batch is larger than an epoch, and ends within one. A run that was resumed asks
    for its batches anew, and one that accumulates for several of them in a step.
    """
    text = (np.arange(n), min(context, n - 1), batch, seed, CPU)
    per_epoch = Batches(*text)._sampler.per_epoch
    rows = [Batches(*text)[number] for number in range(-(-epochs * per_epoch // batch))]
    inputs, targets = (torch.cat(parts)[: epochs * per_epoch] for parts in zip(*rows, strict=True))
    learned = targets[targets != NO_TARGET]
    assert torch.bincount(learned, minlength=n).tolist() == [0, *[epochs] * (n - 1)]
    assert torch.equal(learned, inputs[targets != NO_TARGET] + 1)


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
