"""The engine by itself: who gets a place when, who goes on with whom, and what a failure does."""

import pkgutil
import threading

import pytest
from small_server import until

from minitx.config import Limits
from minitx.generation import TextBatch
from minitx.generation.filters import source
from minitx.serving.api_errors import APIError
from minitx.serving.batch_engine import Engine
from minitx.serving.completion_request import parse_completion
from minitx.serving.jobs import make_job
from minitx.serving.metrics import Metrics


class Held:
    """An engine that takes one turn at a time, as the test says."""

    def __init__(self, loaded, **limits):
        self.loaded = loaded
        self.updates = []
        self.engine = Engine(loaded, Limits(**limits), Metrics(), self.updates.extend)

    def job(self, **fields):
        request = parse_completion({"prompt": "1 green", "seed": 1, **fields}, 10_000)
        return make_job(request, self.loaded)

    def submit(self, **fields):
        job = self.job(**fields)
        self.engine.submit(job)
        return job

    def turn(self):
        before = len(self.updates)
        self.engine._turn()
        return self.updates[before:]

    def finished(self, job):
        return any(one.job is job and one.finish_reason for one in self.updates)


def test_a_request_joins_those_that_run_and_leaves_when_done(loaded):
    held = Held(loaded)
    first = held.submit(max_tokens=9)
    held.turn()
    second = held.submit(max_tokens=3)
    assert {one.job for one in held.turn()} == {first, second}
    held.turn()
    assert held.finished(second)
    assert {one.job for one in held.turn()} == {first}
    assert held.engine.active == 1


def test_places_are_taken_in_the_order_of_arrival(loaded):
    held = Held(loaded, max_concurrent=2)
    jobs = [held.submit(max_tokens=3 + 2 * (i % 3)) for i in range(9)]
    while not all(map(held.finished, jobs)):
        assert held.engine.active <= 2
        held.turn()
    began = list(dict.fromkeys(one.job for one in held.updates))
    assert began == jobs


def test_all_that_run_advance_together(loaded):
    held = Held(loaded, max_concurrent=8)
    jobs = [held.submit(max_tokens=40, seed=i) for i in range(8)]
    held.turn()
    for _ in range(30):
        told = held.turn()
        assert [one.job for one in told].count(jobs[0]) == 1
        assert {one.job for one in told} == set(jobs)


def test_prompts_of_a_long_queue_are_read_a_few_at_a_time(loaded):
    context = loaded.model.config.context_length
    held = Held(loaded, max_concurrent=200)
    running = held.submit(max_tokens=200)
    held.turn()
    prompts = [("12345678"[i % 8] + " green") * 9 for i in range(99)]
    waiting = [held.submit(prompt=(p + str(i))[-context:]) for i, p in enumerate(prompts)]
    turns = 0
    while held.engine.waiting:
        # Between two parts of the queue, the one that runs gets its token.
        assert any(one.job is running for one in held.turn())
        turns += 1
    assert turns >= len(waiting) * context // max(1024, 2 * context)
    assert turns > 1


def test_the_queue_is_bounded_and_says_when_to_come_again(loaded):
    held = Held(loaded, max_concurrent=2, max_queue=3)
    for _ in range(5):
        held.submit(max_tokens=3)
    with pytest.raises(APIError) as caught:
        held.submit()
    assert caught.value.status == 429
    assert int(caught.value.headers["retry-after"]) >= 1
    with pytest.raises(APIError):
        held.submit(n=2)
    held.turn()
    held.turn()
    assert held.engine.active + held.engine.waiting == 3
    held.submit(n=2)


def test_a_cancelled_job_leaves_at_the_next_step(loaded):
    held = Held(loaded, max_concurrent=2)
    gone, stays, waits = (held.submit(max_tokens=100, seed=i) for i in range(3))
    held.turn()
    held.engine.cancel(gone)
    assert {one.job for one in held.turn()} == {stays, waits}
    held.engine.cancel(waits)
    held.engine.cancel(stays)
    assert held.turn() == []
    assert held.engine.active == 0
    queued = [held.submit(max_tokens=5) for _ in range(3)]
    held.engine.cancel(queued[1])
    while held.engine.waiting or held.engine.active:
        held.turn()
    assert {one.job for one in held.updates if one.finish_reason} == {queued[0], queued[2]}


def texts(held, jobs):
    return ["".join(one.text for one in held.updates if one.job is job) for job in jobs]


def test_neighbours_that_come_and_go_do_not_change_a_text(loaded):
    alone = []
    for seed in range(5):
        held = Held(loaded)
        job = held.submit(max_tokens=60, seed=seed)
        while not held.finished(job):
            held.turn()
        alone += texts(held, [job])
    held = Held(loaded, max_concurrent=4)
    jobs = []
    for seed in range(5):
        jobs.append(held.submit(max_tokens=60, seed=seed))
        noise = held.submit(prompt="9 green bottles", max_tokens=7 * seed + 1)
        held.turn()
        held.engine.cancel(noise)
        held.turn()
    while not all(map(held.finished, jobs)):
        held.turn()
    assert texts(held, jobs) == alone


def test_a_failing_step_fails_its_requests_and_no_others(loaded, monkeypatch):
    held = Held(loaded, max_concurrent=1)
    lost, other = held.submit(max_tokens=5), held.submit(max_tokens=5)
    held.turn()

    def fail(self):
        raise RuntimeError("a secret of the machine")

    with monkeypatch.context() as patched:
        patched.setattr(TextBatch, "step", fail)
        (told,) = held.turn()
    assert told.job is lost
    assert told.failure.status == 500
    assert "secret" not in str(told.failure.body)
    while not held.finished(other):
        held.turn()


def test_an_engine_whose_model_fails_gives_up(loaded, monkeypatch):
    def fail(self, rows):
        raise RuntimeError("broken")

    monkeypatch.setattr(TextBatch, "add", fail)
    held = Held(loaded, max_concurrent=1)
    jobs = [held.submit(), held.submit()]
    held.engine.start()
    until(lambda: len(held.updates) == 2, "the end of both")
    assert {one.job for one in held.updates} == set(jobs)
    assert {one.failure.status for one in held.updates} == {500}
    assert held.engine.gave_up
    with pytest.raises(APIError) as caught:
        held.submit()
    assert caught.value.status == 500


def test_what_a_job_asks_for_that_can_not_be_is_its_own_failure(loaded, monkeypatch):
    from minitx.errors import BadInputError

    check = TextBatch.check

    def refuse(self, row):
        if row.config.seed == 13:
            raise BadInputError("it can't be", "Ask for less")
        check(self, row)

    monkeypatch.setattr(TextBatch, "check", refuse)
    held = Held(loaded)
    bad, good = held.submit(seed=13, n=2), held.submit(max_tokens=3)
    held.turn()
    (failed,) = [one for one in held.updates if one.failure]
    assert failed.job is bad
    assert failed.failure.status == 400
    held.turn()
    assert held.finished(good)


def test_closing_fails_what_is_not_done(loaded):
    held = Held(loaded)
    first = threading.Event()
    held.engine._deliver = lambda updates: (held.updates.extend(updates), first.set())
    held.engine.start()
    job = held.submit(max_tokens=10_000)
    assert first.wait(30)
    held.engine.close()
    assert held.updates[-1].job is job
    assert held.updates[-1].failure.status == 503
    with pytest.raises(APIError):
        held.submit()


STAGES = {
    "row": ("minitx.generation.chooser.number", {}, lambda origin, _: origin in BAD_SOURCES),
    "update": (
        "minitx.serving.batch_engine.text_offset", {"logprobs": 1}, lambda *_: True,
    ),
    "prompt": (
        "minitx.serving.batch_engine.prompt_tokens", {"logprobs": 1, "echo": True},
        lambda *_: True,
    ),
    "join": (
        "minitx.generation.text_reader.TextReader.read", {"prompt": "9 green"},
        lambda _, prompts: any(len(ids) == 7 and len(prompts) < 9 for ids in prompts),
    ),
}  # fmt: skip
BAD_SOURCES = [source(13, index) for index in range(2)]


@pytest.mark.parametrize("stage", STAGES)
def test_a_fault_of_one_request_is_answered_to_it_alone(loaded, monkeypatch, caplog, stage):
    name, asked, is_bad = STAGES[stage]
    alone = Held(loaded)
    good = [alone.submit(prompt="1", max_tokens=9, seed=seed) for seed in range(3)]
    while not all(map(alone.finished, good)):
        alone.turn()
    place, _, attribute = name.rpartition(".")
    held = Held(loaded)
    original = pkgutil.resolve_name(name)

    def planted(*arguments):
        if is_bad(*arguments):
            raise RuntimeError("a secret of the machine")
        return original(*arguments)

    monkeypatch.setattr(pkgutil.resolve_name(place), attribute, planted)
    jobs = [held.submit(prompt="1", max_tokens=9, seed=seed) for seed in range(2)]
    bad = held.submit(**{"prompt": "1", "max_tokens": 9, "seed": 13, "n": 2, **asked})
    jobs.append(held.submit(prompt="1", max_tokens=9, seed=2))
    while not all(map(held.finished, jobs)):
        held.turn()
        if any(one.failure for one in held.updates):
            held.engine.cancel(bad)
    failures = [one for one in held.updates if one.failure]
    assert {one.job for one in failures} == {bad}
    assert failures[0].failure.status == 500
    assert "secret" not in str(failures[0].failure.body)
    assert "secret" in caplog.text
    assert texts(held, jobs) == texts(alone, good)
    assert not held.engine.gave_up
