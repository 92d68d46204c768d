"""Python waits for a GPU that is more than two steps behind, and for nothing else."""

import pytest
import torch

from minitx.training.run_ahead import STEPS_AHEAD, RunAhead


@pytest.fixture
def waited(monkeypatch):
    """Numbers of the steps that were waited for, in order."""
    made, waited = [], []

    class Event:
        def __init__(self):
            made.append(self)
            self.number = len(made)

        def record(self):
            pass

        def synchronize(self):
            waited.append(self.number)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    return waited


def test_two_steps_may_be_under_way(waited):
    ahead = RunAhead(torch.device("cuda"))
    for step in range(1, 8):
        ahead.step_done()
        assert waited == list(range(1, step - STEPS_AHEAD + 1))


def test_a_processor_is_never_waited_for(waited):
    ahead = RunAhead(torch.device("cpu"))
    for _ in range(5):
        ahead.step_done()
    assert not waited
