"""Sixty-four clients at once: no error, everybody's own text, nobody first at others' cost."""

import asyncio
import gc
import threading

import openai
import pytest
from small_server import serving, until

from minitx.config import SamplingConfig
from minitx.generation import Row
from minitx.serving.answers import Answer
from minitx.serving.batch_engine import Engine
from minitx.serving.jobs import Job, Update, UpdateQueue
from minitx.serving.server import BoundedProtocol

CLIENTS = 64
TOKENS = 40
PROMPTS = [f"{1 + i % 9} green bottle" for i in range(CLIENTS)]


@pytest.fixture
def gate(monkeypatch):
    """Holds all engines' turns until it is set, so that requests meet in the queue."""
    opened, turn = threading.Event(), Engine._turn

    def held(self):
        opened.wait(60)
        turn(self)

    monkeypatch.setattr(Engine, "_turn", held)
    yield opened
    opened.set()


def stream_all(server, gate, n_waiting):
    """What each client was told, and in which order the pieces came: (client, piece, is last)."""
    arrivals = []

    async def one(client, number):
        text = ""
        stream = await client.completions.create(
            model="verses-001", prompt=PROMPTS[number], max_tokens=TOKENS, seed=number,
            stream=True,
        )  # fmt: skip
        async for piece in stream:
            text += piece.choices[0].text
            arrivals.append((number, bool(piece.choices[0].finish_reason)))
        return text

    async def everybody():
        async with openai.AsyncOpenAI(
            base_url=f"{server.url}/v1", api_key="none", max_retries=0
        ) as client:
            return await asyncio.gather(*(one(client, number) for number in range(CLIENTS)))

    texts = []
    thread = threading.Thread(target=lambda: texts.extend(asyncio.run(everybody())))
    thread.start()
    until(lambda: server.engine.waiting == n_waiting, "the arrival of all")
    gate.set()
    thread.join(120)
    return texts, arrivals


@pytest.fixture(scope="module")
def expected(loaded):
    return [
        loaded.sample(
            [prompt], SamplingConfig(temperature=1.0, max_new_tokens=TOKENS, seed=number)
        )[0].text
        for number, prompt in enumerate(PROMPTS)
    ]


def test_streams_side_by_side(loaded, gate, expected):
    with serving(loaded) as server:
        texts, arrivals = stream_all(server, gate, CLIENTS)
        metrics = server.metrics()
    assert texts == expected
    # Nobody had all of it before everybody had some of it.
    firsts = {number: place for place, (number, _) in reversed(list(enumerate(arrivals)))}
    ends = [place for place, (_, last) in enumerate(arrivals) if last]
    assert len(firsts) == len(ends) == CLIENTS
    assert max(firsts.values()) < min(ends)
    assert metrics["minitx_requests_total", "200"] == CLIENTS
    assert metrics["minitx_generated_tokens_total",] == CLIENTS * TOKENS


def test_streams_that_take_turns(loaded, gate, expected):
    with serving(loaded, max_concurrent=8) as server:
        texts, arrivals = stream_all(server, gate, CLIENTS)
        statuses = [one.status for one in server.records]
    assert texts == expected
    assert statuses == [200] * CLIENTS
    # Eight at a time: when the n-th to begin does so, no more than eight are under way.
    under_way, most = set(), 0
    for number, last in arrivals:
        under_way.add(number)
        most = max(most, len(under_way))
        if last:
            under_way.discard(number)
    assert 8 <= most <= 16
    # First come, first served: those who came together end together, one eight after the other.
    ends = [number for number, last in arrivals if last]
    begins = list(dict.fromkeys(number for number, _ in arrivals))
    assert all(abs(ends.index(number) - place) < 16 for place, number in enumerate(begins))


def test_nothing_is_left_of_requests_that_ended(loaded):
    kinds = (Job, Row, UpdateQueue, Update, Answer, BoundedProtocol)
    with serving(loaded) as server:
        for _ in range(3):
            clients = [server.open_stream(prompt="1", max_tokens=4000) for _ in range(5)]
            until(lambda: server.engine.active == 5)
            for client in clients:
                client.close()
            for n in range(10):
                assert server.complete(prompt="1", max_tokens=5, n=1 + n % 3).status == 200
                assert server.complete(prompt="", max_tokens=5).status == 400
            until(lambda: server.engine.active + server.service.busy == 0)

        def left():
            gc.collect()
            return [one for one in gc.get_objects() if issubclass(type(one), kinds)]

        until(lambda: not left(), "letting go of everything")
