from minitx.training.observer import Observers
from minitx.workflows import prepare


class Told:
    def __init__(self):
        self.names = []

    def observe(self, event):
        self.names.append(event.name)


def test_a_phase_says_how_far_it_is_after_a_second_and_then_some_twenty_times(monkeypatch):
    now, told = [100.0], Told()
    monkeypatch.setattr(prepare.time, "perf_counter", lambda: now[0])
    tell = prepare.progress_told(Observers([told]), "encoding the corpus")
    total = 6_000_000
    for done in range(0, total, 10_000):
        now[0] = 100.0 + done / 100_000
        tell(done, total)
        if done < 100_000:
            assert not told.names
    assert told.names[0] == ("encoding the corpus: 2%, 0.1 MB a second, 59 s left")
    assert 15 <= len(told.names) <= 25
    assert told.names[-1].startswith("encoding the corpus: 9")
