"""What a server does not do for a client: the right status, and nothing of its insides told."""

import http.client
import json
import re
import socket
import threading

import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_server import serving, until

from minitx.generation import TextBatch

SECRET = "a-secret-of-sixteen-or-more"
INSIDES = re.compile(r"Traceback|File \"|/[a-z]+/[a-z]+/|site-packages|\.py|0x[0-9a-f]{6}|Error\b")


def assert_refused(answered, status, *words):
    assert answered.status == status, answered
    assert answered.headers["content-type"] == "application/json"
    error = answered.json["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert not INSIDES.search(answered.body.decode().replace("/v1/completions", "")), answered.body
    for word in words:
        assert word.lower() in error["message"].lower(), error
    return error


BAD_BODIES = {
    "nothing": (b"", "JSON"),
    "half": (b'{"prompt": "1', "JSON"),
    "no object": (b'["1"]', "object"),
    "not UTF-8": (b'{"prompt": "\xff"}', "JSON"),
    "nested": (b'{"prompt": ' + b"[" * 50_000 + b"]" * 50_000 + b"}", "JSON"),
    "no prompt": (b"{}", "prompt"),
    "type": (b'{"prompt": "1", "max_tokens": "many"}', "max_tokens"),
    "unknown field": (b'{"prompt": "1", "colour": 3}', "colour"),
    "unknown character": ('{"prompt": "日"}'.encode(), "U+65E5"),
    "surrogate": (b'{"prompt": "\\ud800"}', "U+D800"),
    "id": (b'{"prompt": [1, 100000]}', "token ids"),
    "large id": (b'{"prompt": [1, %d]}' % 10**300, "token ids"),
    "long": (b'{"prompt": "' + b"1 green " * 9 + b'"}', "tokens"),
    "huge": (b'{"prompt": "' + b"1" * 900_000 + b'"}', "tokens"),
    "long ids": (json.dumps({"prompt": [1] * 99}).encode(), "tokens"),
    "bias": (b'{"prompt": "1", "logit_bias": {"100000": 1}}', "logit bias"),
    "choices": (b'{"prompt": ["1", "2"], "n": 64}', "64"),
    "surrogate model": (b'{"prompt": "1", "model": "\\ud800"}', "model"),
}


@pytest.mark.parametrize("name", BAD_BODIES)
def test_bad_bodies(server, name):
    body, word = BAD_BODIES[name]
    status = 404 if name == "surrogate model" else 400
    error = assert_refused(server.send(body), status, word)
    assert error["type"] == "invalid_request_error"
    if name in ("long", "huge", "long ids"):
        assert error["code"] == "context_length_exceeded"


def test_the_bound_on_prompts(loaded):
    with serving(loaded, max_prompt_tokens=4) as server:
        assert server.complete(prompt="1 gr").status == 200
        assert_refused(server.complete(prompt="1 gre"), 400, "5 tokens", "at most 4")


def test_large_bodies_with_and_without_a_length(loaded):
    with serving(loaded, max_body_bytes=1000) as server:
        fits = json.dumps({"prompt": "1", "user": "u" * 900}).encode()
        assert server.send(fits).status == 200
        large = json.dumps({"prompt": "1", "user": "u" * 1000}).encode()
        assert_refused(server.send(large), 413, "1000 bytes")
        chunked = server.ask(
            "POST", "/v1/completions", iter([large[:500], large[500:]]),
            {"Content-Type": "application/json"},
        )  # fmt: skip
        assert_refused(chunked, 413)
        # Told before it is sent.
        client = socket.create_connection(("127.0.0.1", server.port))
        client.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n"
            b"Content-Type: application/json\r\nContent-Length: 99999999999999999999\r\n\r\n"
        )
        assert client.recv(1000).startswith(b"HTTP/1.1 413")
        client.close()
        assert server.complete(prompt="1").status == 200


def test_paths_methods_and_types(server):
    assert_refused(server.ask("GET", "/"), 404, "/v1/completions")
    headers = {"content-type": "application/json"}
    assert_refused(server.ask("POST", "/v1/chat/completions", b"{}", headers), 404, "does not chat")
    for method, path, allowed in (
        ("GET", "/v1/completions", {"POST"}),
        ("PUT", "/v1/completions", {"POST"}),
        ("DELETE", "/v1/models", {"GET", "HEAD"}),
        ("POST", "/v1/models/x", {"GET", "HEAD"}),
        ("OPTIONS", "/health", {"GET", "HEAD"}),
        ("POST", "/metrics", {"GET", "HEAD"}),
    ):
        answered = server.ask(method, path)
        assert_refused(answered, 405)
        assert set(answered.headers["allow"].split(", ")) == allowed
    assert_refused(server.send(b"{}", **{"Content-Type": "text/plain"}), 415, "content-type")
    # What a form of a web page sends, without asking first.
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert_refused(server.send(b'{"prompt": "1"}', **form), 415)


def test_what_is_no_http_is_refused(server):
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(b"\x16\x03\x01 hello\r\n\r\n")
        assert client.recv(1000).startswith(b"HTTP/1.1 400")
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        # A head without end.
        client.sendall(b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 20_000)
        assert client.recv(1000).startswith(b"HTTP/1.1 4")
    assert server.ask("GET", "/health").json == {"status": "ok"}


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost.evil.example", "",
     "[::2]:80", "169.254.169.254"],
)  # fmt: skip
def test_another_host_name_is_refused_on_this_machine(server, host):
    assert_refused(server.ask("GET", "/v1/models", headers={"Host": host}), 421, "host")
    assert_refused(server.ask("GET", "/health", headers={"Host": host}), 421)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:9", "[::1]:8000"])
def test_names_of_this_machine_are_answered(server, host):
    assert server.ask("GET", "/v1/models", headers={"Host": host}).status == 200


@pytest.fixture(scope="module")
def guarded(loaded):
    with serving(loaded, token=SECRET, name=None) as server:
        yield server


@pytest.mark.parametrize(
    "shown",
    [None, "", "Bearer", "Bearer ", "Bearer wrong", f"Bearer {SECRET[:-1]}", f"Bearer {SECRET}x",
     SECRET, f"Basic {SECRET}", f"Bearer {SECRET} {SECRET}", "Bearer \xe9\xff"],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/v1/completions", "/v1/models", "/metrics", "/nothing"])
def test_without_the_token_there_is_nothing(guarded, shown, path):
    headers = {} if shown is None else {"Authorization": shown}
    answered = guarded.ask("GET", path, headers=headers)
    assert_refused(answered, 401, "token")
    assert answered.headers["www-authenticate"] == "Bearer"
    # The same whatever is there and whatever was shown.
    assert answered.body == guarded.ask("GET", "/v1/models").body
    assert SECRET not in answered.body.decode()


def test_with_the_token_there_is_everything(guarded):
    headers = {"Authorization": f"bearer  {SECRET}", "Host": "any.example"}
    for path in ("/v1/models", "/metrics"):
        assert guarded.ask("GET", path, headers=headers).status == 200
    assert guarded.ask("GET", "/health").json == {"status": "ok"}
    with openai.OpenAI(base_url=f"{guarded.url}/v1", api_key=SECRET) as client:
        assert client.completions.create(model="verses-001", prompt="1").choices[0].text
    with (
        openai.OpenAI(base_url=f"{guarded.url}/v1", api_key="wrong", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError),
    ):
        client.models.list()


def test_a_full_queue(loaded):
    with serving(loaded, max_concurrent=1, max_queue=1, max_tokens=100_000) as server:
        clients = [server.open_stream(prompt="1", max_tokens=100_000)]
        until(lambda: server.engine.active == 1)
        clients.append(server.open_stream(prompt="1", max_tokens=100_000))
        until(lambda: server.engine.waiting == 1)
        answered = server.complete(prompt="1")
        error = assert_refused(answered, 429, "full")
        assert error["type"] == "rate_limit_error"
        assert int(answered.headers["retry-after"]) >= 1
        for client in clients:
            client.close()
        until(lambda: server.engine.active + server.engine.waiting == 0)
        assert server.complete(prompt="1").status == 200


def test_a_client_that_leaves_frees_its_place(server):
    with_body = json.dumps({"prompt": "1", "max_tokens": 100_000, "n": 3}).encode()
    for stream in (True, False):
        if stream:
            client = server.open_stream(prompt="1", max_tokens=100_000, n=3)
            client.recv(100)
        else:
            client = socket.create_connection(("127.0.0.1", server.port))
            client.sendall(
                b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n"
                b"Content-Type: application/json\r\n\r\n" % len(with_body) + with_body
            )
        until(lambda: server.engine.active == 3)
        client.close()
        until(lambda: server.engine.active == 0)
        until(lambda: server.service.busy == 0)
        assert server.records[-1].status == 499
        # A stream has had its first token; the other may have left before that.
        assert int(stream) <= server.records[-1].n_new < 300_000


def test_a_client_of_openai_that_stops_reading_early(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
        stream = client.completions.create(
            model="verses-001", prompt="1", max_tokens=100_000, stream=True
        )
        next(iter(stream))
        stream.close()
        until(lambda: server.engine.active == 0)


def test_a_request_that_takes_too_long(loaded):
    with serving(loaded, request_timeout=0.3, max_tokens=100_000) as server:
        assert_refused(server.complete(prompt="1", max_tokens=100_000), 504, "too long")
        events, done = server.complete(prompt="1", max_tokens=100_000, stream=True).events
        assert not done
        assert events[-1]["error"]["code"] == "timeout"
        with (
            openai.OpenAI(base_url=f"{server.url}/v1", api_key="none") as client,
            pytest.raises(openai.APIError),
        ):
            list(
                client.completions.create(
                    model="verses-001", prompt="1", max_tokens=100_000, stream=True
                )
            )
        until(lambda: server.engine.active == 0)


def test_slow_senders(loaded):
    with serving(loaded, client_timeout=0.3) as server:
        head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
        body = b"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
        chunks = b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n{"
        late = b"HTTP/1.1 408"
        for sent, answer in ((b"", b""), (head, b""), (head + body, late), (head + chunks, late)):
            with socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:
                client.sendall(sent)
                assert client.recv(20).startswith(answer)
        assert server.complete(prompt="1").status == 200


def test_a_slow_reader_is_dropped_and_holds_nobody_up(loaded):
    limits = {"max_tokens": 1_000_000, "max_unsent": 200, "client_timeout": 0.5}
    with serving(loaded, **limits) as server:
        slow = server.open_stream(receive_buffer=4096, prompt="1", max_tokens=1_000_000)
        until(lambda: server.engine.active == 1)
        assert server.complete(prompt="1", max_tokens=20).status == 200
        until(lambda: server.engine.active == 0, "the end of the slow one")
        until(lambda: server.service.busy == 0)
        (record,) = [one for one in server.records if one.status != 200]
        assert record.status in (408, 499)
        assert record.n_new < 100_000
        slow.close()


def test_many_connections_that_say_nothing(loaded):
    # Client and server are one process here.
    resource = pytest.importorskip("resource")
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    with serving(loaded, max_concurrent=1, max_queue=0) as server:
        many = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(90)]
        # Of those beyond the limit of 65, each took the place of the one that was idle longest.
        assert all(client.recv(1) == b"" for client in many[:20])
        assert server.ask("GET", "/health").status == 200
        stream = server.open_stream(prompt="1", max_tokens=2000)
        assert stream.recv(10)
        n = min(2000, files // 2 - 120)
        many += [socket.create_connection(("127.0.0.1", server.port)) for _ in range(n)]
        assert server.ask("GET", "/health").status == 200
        # One that waits for an answer is not idle.
        assert _rest(stream).endswith(b"0\r\n\r\n")
        for client in many:
            client.close()


def _rest(client):
    received = b""
    while not received.endswith(b"0\r\n\r\n") and (part := client.recv(1 << 16)):
        received += part
    return received


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("seconds", [1.0, 0.02])
def test_a_client_that_sends_no_more_gets_its_answer(server, stream, seconds, monkeypatch):
    monkeypatch.setattr("minitx.serving.server._PROBE_SECONDS", seconds)
    client = server.open_stream(prompt="1", max_tokens=900, seed=3, stream=stream)
    client.shutdown(socket.SHUT_WR)
    answered = http.client.HTTPResponse(client)
    answered.begin()
    assert answered.status == 200
    body = answered.read()
    assert b"[DONE]" in body if stream else json.loads(body)["usage"]["completion_tokens"] == 900
    # Nothing can follow, so the connection is closed, also without keep-alive's patience.
    assert client.recv(1) == b""


def test_pipelined_requests_of_a_client_that_sends_no_more_are_answered(server):
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:
        client.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n" * 3)
        client.shutdown(socket.SHUT_WR)
        received = b""
        while part := client.recv(1 << 16):
            received += part
    assert received.count(b"HTTP/1.1 200") == 3


def test_a_defect_tells_nothing_to_the_client(loaded, monkeypatch, caplog):
    with serving(loaded) as server:

        def fail(self):
            raise RuntimeError("/secret/path of the machine")

        with monkeypatch.context() as patched:
            patched.setattr(TextBatch, "step", fail)
            assert_refused(server.complete(prompt="1"), 500, "failed")
            # An event of the stream if a token was sent before, and else a plain answer.
            broken = server.complete(prompt="1", stream=True)
            assert broken.status in (200, 500)
            assert b"failed to answer" in broken.body
            assert b"[DONE]" not in broken.body
            assert b"secret" not in broken.body
        assert server.complete(prompt="1").status == 200
        assert server.ask("GET", "/health").json == {"status": "ok"}
        monkeypatch.setattr("minitx.serving.http_app.parse_completion", lambda *_: 1 / 0)
        assert_refused(server.complete(prompt="1"), 500, "failed")
        assert "secret" in caplog.text


def test_a_model_that_fails_for_good_ends_the_server(loaded, monkeypatch):
    def fail(self, rows):
        raise RuntimeError("broken")

    with serving(loaded) as server:
        monkeypatch.setattr(TextBatch, "add", fail)
        assert_refused(server.complete(prompt="1"), 500)
        until(lambda: server.endings)
    assert server.endings[0].exit_code == 1


def test_stopping_lets_running_requests_end(loaded):
    with serving(loaded, max_tokens=100_000) as server:
        answers = []
        body = {"prompt": "1", "max_tokens": 2000, "seed": 3}
        thread = threading.Thread(target=lambda: answers.append(server.complete(**body)))
        thread.start()
        until(lambda: server.engine.active == 1)
        server.stop.signal_number = 15
        until(lambda: server.service.draining)
        answered = server.complete(prompt="1")
        assert_refused(answered, 503, "stopping")
        assert int(answered.headers["retry-after"]) >= 1
        assert server.ask("GET", "/health").status == 503
        thread.join()
        assert answers[0].status == 200
        assert answers[0].json["usage"]["completion_tokens"] == 2000
        until(lambda: server.endings)
    assert (server.endings[0].exit_code, server.endings[0].n_cut) == (143, 0)


def test_stopping_cuts_off_what_takes_longer_than_the_grace(loaded):
    with serving(loaded, max_tokens=1_000_000, grace=0.2) as server:
        client = server.open_stream(prompt="1", max_tokens=1_000_000)
        client.recv(10)
        server.stop.signal_number = 2
        rest = b""
        while part := client.recv(65536):
            rest += part
        assert b'"code":"stopping"' in rest
        assert b"[DONE]" not in rest
        until(lambda: server.endings)
    assert (server.endings[0].exit_code, server.endings[0].n_cut) == (130, 1)


def test_metrics_count_what_happened(loaded):
    with serving(loaded) as server:
        n_prompt = len(loaded.tokenizer.encode("1 green"))
        for _ in range(3):
            server.complete(prompt="1 green", max_tokens=7)
        server.complete(prompt="")
        found = server.metrics()
    assert found["minitx_requests_total", "200"] == 3
    assert found["minitx_requests_total", "400"] == 1
    assert found["minitx_generated_tokens_total",] == 21
    assert found["minitx_prompt_tokens_total",] == 3 * n_prompt
    assert found["minitx_time_to_first_token_seconds_count",] == 3
    assert found["minitx_completion_seconds_count",] == 3
    assert found["minitx_step_seconds_count",] == 18
    assert found["minitx_queue_length",] == found["minitx_active_rows",] == 0
    assert found["minitx_tokens_per_second",] == pytest.approx(2.1)


FIELDS = st.fixed_dictionaries(
    {"prompt": st.sampled_from(["1", "", "日", [3], ["1", "2"], [99999], None])},
    optional={
        "max_tokens": st.sampled_from([0, 1, 3, -1, "3"]),
        "temperature": st.sampled_from([0, 1, 0.3, -1, None]),
        "logprobs": st.sampled_from([0, 5, 6]),
        "echo": st.booleans(),
        "stream": st.booleans(),
        "stop": st.sampled_from(["g", ["\n", " "], "", []]),
        "n": st.sampled_from([1, 3, 0]),
        "logit_bias": st.sampled_from([{"1": -100}, {"99999": 1}, {"x": 1}]),
        "top_k": st.sampled_from([0, 1, 99999]),
        "top_p": st.sampled_from([0, 0.5, 2]),
        "min_p": st.sampled_from([0.2, 1]),
        "repetition_penalty": st.sampled_from([1.5, 0]),
        "frequency_penalty": st.sampled_from([1, -2, 3]),
        "seed": st.integers(-3, 3),
    },
)


@settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(FIELDS)
def test_any_request_is_answered_and_never_with_a_defect(server, fields):
    answered = server.complete(**fields)
    assert answered.status in (200, 400)
    if answered.status == 400:
        assert_refused(answered, 400)
    elif fields.get("stream"):
        assert answered.events[1]
    else:
        assert len(answered.json["choices"]) == (
            fields.get("n", 1) * (2 if fields["prompt"] == ["1", "2"] else 1)
        )
