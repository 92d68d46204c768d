import pytest

from minitx.training.batches import Batches


@pytest.fixture
def poisoned(monkeypatch):
    """Batches of the given numbers, from 0, have the same wrong target everywhere."""

    def poison(*numbers):
        original = Batches._prepared

        def get(self, index):
            inputs, targets = original(self, index)
            if index in numbers:
                targets = targets * 0 + int(self.ids.max())
            return inputs, targets

        monkeypatch.setattr(Batches, "_prepared", get)

    return poison
