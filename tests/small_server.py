"""A server of a small model, in a thread of the test's own process."""

import http.client
import json
import socket
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace

from minitx.config import Limits
from minitx.serving.http_app import Listening
from minitx.serving.server import ServerStop, listen, run
from minitx.workflows.serve import describe

PATIENCE = 30.0


@dataclass
class Answered:
    status: int
    headers: dict
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def events(self):
        """The objects of a stream, and whether it ended well."""
        found = [part[6:] for part in self.body.decode().split("\n\n") if part]
        done = bool(found) and found[-1] == "[DONE]"
        return [json.loads(one) for one in found[: len(found) - done]], done


@dataclass
class Server:
    port: int
    stop: ServerStop
    loaded: object
    records: list = field(default_factory=list)
    endings: list = field(default_factory=list)
    service: object = None

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    @property
    def engine(self):
        return self.service.engine

    def ask(self, method, path, body=None, headers=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request(method, path, body, headers or {})
            got = connection.getresponse()
            return Answered(got.status, dict(got.getheaders()), got.read())
        finally:
            connection.close()

    def complete(self, **fields):
        return self.send(json.dumps(fields).encode())

    def send(self, body, **headers):
        headers = {"Content-Type": "application/json", **headers}
        return self.ask("POST", "/v1/completions", body, headers)

    def open_stream(self, receive_buffer=None, **fields):
        """A connection that has asked for a stream, and read nothing yet."""
        client = socket.socket()
        if receive_buffer is not None:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        client.settimeout(PATIENCE)
        client.connect(("127.0.0.1", self.port))
        body = json.dumps({"stream": True, **fields}).encode()
        client.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        )
        return client

    def metrics(self):
        from prometheus_client.parser import text_string_to_metric_families

        text = self.ask("GET", "/metrics").body.decode()
        return {
            (sample.name, *sample.labels.values()): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }


def until(condition, what="it"):
    """Wait for something that another thread does."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"{what} did not happen"
        time.sleep(0.005)


@contextmanager
def serving(loaded, token=None, name="127.0.0.1", **limits):
    from minitx.serving import server as module

    opened = listen("127.0.0.1", 0)
    found = Server(opened.getsockname()[1], ServerStop(), loaded)
    ready = threading.Event()

    class Seen(module.Service):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            found.service = self

    def main():
        listening = Listening(opened, describe(loaded), found.url, Limits(**limits), token, name)
        screen = SimpleNamespace(
            ready=lambda _: ready.set(), request=found.records.append,
            stopping=lambda _: None, ended=found.endings.append,
        )  # fmt: skip
        run(listening, screen, found.stop)

    original, module.Service = module.Service, Seen
    thread = threading.Thread(target=main)
    thread.start()
    try:
        assert ready.wait(PATIENCE)
        module.Service = original
        yield found
    finally:
        module.Service = original
        found.stop.signal_number = found.stop.signal_number or 15
        thread.join(PATIENCE)
        assert not thread.is_alive()
