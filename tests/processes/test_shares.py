"""Which process computes what: each row of each pass once, whatever the number of processes."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minitx.config import TrainConfig
from minitx.corpus.training_windows import NO_TARGET
from minitx.training.gradients import Share, number_after, shares
from minitx.training.team import Team


@dataclass
class Member(Team):
    rank: int = 0
    size: int = 1


sizes = st.integers(1, 9)


@given(step=st.integers(0, 50), passes=sizes, batch_size=sizes, size=sizes)
def test_all_rows_of_all_passes_are_done_once(step, passes, batch_size, size):
    done = [
        (share.number, row)
        for rank in range(size)
        for share in shares(step, passes, batch_size, Member(rank, size))
        for row in range(batch_size)[share.rows or slice(None)]
    ]
    numbers = range(step * passes, (step + 1) * passes)
    assert sorted(done) == [(number, row) for number in numbers for row in range(batch_size)]


@given(step=st.integers(0, 50), passes=sizes, batch_size=sizes)
def test_one_alone_does_whole_passes_in_their_order(step, passes, batch_size):
    own = shares(step, passes, batch_size, Team())
    assert own == [Share(step * passes + i) for i in range(passes)]


@given(passes=sizes, size=sizes, rank=st.integers(0, 8))
def test_what_comes_after_is_what_is_asked_for_next(passes, size, rank):
    member = Member(rank % size, size)
    config = TrainConfig(steps=5, learning_rate=0.1, batch_size=16, accumulation=passes)
    asked = [share.number for step in range(4) for share in shares(step, passes, 16, member)]
    for number, following in zip(asked, asked[1:], strict=False):
        assert number_after(number, config, member) in (following, number)


def test_a_piece_weighs_as_much_as_it_has_targets():
    targets = torch.arange(12).view(4, 3)
    targets[0] = NO_TARGET
    targets[3, 1:] = NO_TARGET
    weights = [Share(0, slice(i, i + 2)).of((targets, targets))[2] for i in (0, 2)]
    assert weights == pytest.approx([3 / 7, 4 / 7])


@given(step=st.integers(0, 50), passes=sizes, batch_size=sizes, size=sizes, most=sizes)
def test_no_more_rows_are_done_at_once_than_fit(step, passes, batch_size, size, most):
    members = [Member(rank, size) for rank in range(size)]
    done = [shares(step, passes, batch_size, member, most) for member in members]
    rows = [
        (share.number, row)
        for own in done
        for share in own
        for row in range(batch_size)[share.rows or slice(None)]
    ]
    numbers = range(step * passes, (step + 1) * passes)
    assert sorted(rows) == [(number, row) for number in numbers for row in range(batch_size)]
    for member, own in zip(members, done, strict=True):
        for share in own:
            n = len(range(batch_size)[share.rows or slice(None)])
            assert 0 < n <= most
        # Each keeps the passes that it had.
        before = shares(step, passes, batch_size, member)
        assert {share.number for share in own} == {share.number for share in before}
