"""`minitx serve` as a person runs it: what it prints, what it refuses, how it ends."""

import json
import re
import signal
import socket
import sys
import threading
import urllib.error
import urllib.request

import pytest
from serve_process import ServeProcess
from small_server import until

SECRET = "a-secret-of-sixteen-or-more"


def refused(result, *words):
    assert result.code == 2, result
    assert result.out == ""
    (line,) = result.err.splitlines()
    assert line.startswith("error: ")
    for word in words:
        assert word in line, line


@pytest.fixture(autouse=True)
def _no_token(monkeypatch):
    monkeypatch.delenv("MINITX_SERVE_TOKEN", raising=False)


def test_a_port_in_use(minitx, tiny_run):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused(minitx("serve", tiny_run, "--port", port), f"port {port}", "--port")


def test_an_unknown_run(minitx, inside):
    refused(minitx("serve", "nowhere", "--port", 0), "nowhere")
    refused(minitx("serve", "--port", 0), "no run yet")


def test_a_missing_extra(minitx, tiny_run, monkeypatch):
    monkeypatch.setattr("minitx.serving.find_spec", lambda name: None)
    refused(minitx("serve", tiny_run), "starlette, uvicorn", 'pip install "minitx[serve]"')


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7"])
def test_other_machines_need_a_token(minitx, tiny_run, host):
    refused(minitx("serve", tiny_run, "--host", host, "--port", 0), host, "MINITX_SERVE_TOKEN")


def test_tokens_that_are_none(minitx, tiny_run, tmp_path, monkeypatch):
    file = tmp_path / "token.txt"
    asked = ("serve", tiny_run, "--host", "0.0.0.0", "--port", 0)
    refused(minitx(*asked, "--token-file", file), "token.txt can't be read", "secrets")
    for content in ("", "short", "a secret with blanks", "geheim-geheim-ge\u00fcm"):
        file.write_text(content + "\n")
        refused(minitx(*asked, "--token-file", file), "16 or more")
    monkeypatch.setenv("MINITX_SERVE_TOKEN", "short")
    answer = minitx(*asked)
    refused(answer, "MINITX_SERVE_TOKEN", "16 or more")
    assert "short" not in answer.err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--host", "no.such.host.invalid"], ["no.such.host.invalid"]),
        (["--port", "70000"], ["70000"]),
        (["--max-concurrent", "0"], ["--max-concurrent"]),
        (["--max-queue", "-1"], ["--max-queue"]),
        (["--max-body-bytes", "3"], ["--max-body-bytes"]),
        (["--grace", "soon"], ["--grace"]),
        (["--checkpoint", "first"], ["--checkpoint"]),
        (["--model-name", "two words"], ["--model-name"]),
        (["--quantize", "int3"], ["--quantize"]),
        (["--device", "abacus"], ["abacus"]),
    ],
)
def test_bad_flags(minitx, tiny_run, flags, words):
    port = [] if "--port" in flags else ["--port", 0]
    refused(minitx("serve", tiny_run, *port, *flags), *words)


def fetch(url, body=None, token=None):
    headers = {"Content-Type": "application/json"}
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    request = urllib.request.Request(url, None if body is None else json.dumps(body).encode())
    for name, value in headers.items():
        request.add_header(name, value)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return answer.read()


def resident_bytes(url):
    match = re.search(rb"^process_resident_memory_bytes (\S+)", fetch(f"{url}/metrics"), re.M)
    return float(match[1])


def test_what_it_prints_and_that_memory_is_flat(tiny_run):
    with ServeProcess(tiny_run, "--quiet") as server:
        url = server.url
        assert re.match(
            r"serving +verses-001, step-\d+: .* parameters, context 32$", server.lines[0]
        )
        assert "this machine only, no token" in server.lines[1]
        example = next(line for line in server.lines if line.startswith("try"))
        prompt = json.loads(re.search(r"-d '(.*)'", example)[1])
        assert json.loads(fetch(f"{url}/v1/completions", prompt))["choices"][0]["text"]
        if sys.platform == "linux":
            body = {"prompt": "1", "max_tokens": 8, "n": 4}
            sizes = []
            for _ in range(3):
                for _ in range(100):
                    fetch(f"{url}/v1/completions", body)
                sizes.append(resident_bytes(url))
            assert sizes[-1] - sizes[0] < 3e6, sizes
        assert server.stop(signal.SIGTERM) == (143, "")
        assert not any("→" in line for line in server.lines)
        assert re.match(r"stopped after \d+ requests, [\d,]+ tokens", server.lines[-1])


def test_a_line_for_each_request_and_a_token(tiny_run, tmp_path):
    file = tmp_path / "token.txt"
    file.write_text(f"{SECRET}\n")
    flags = ("--token-file", file, "--host", "127.0.0.1", "--model-name", "green")
    with ServeProcess(tiny_run, *flags) as server:
        assert "with the token" in server.lines[1]
        fetch(f"{server.url}/v1/completions", {"prompt": "1", "max_tokens": 8}, SECRET)
        with pytest.raises(urllib.error.HTTPError) as caught:
            fetch(f"{server.url}/v1/models")
        assert caught.value.code == 401
        assert b"green" in fetch(f"{server.url}/v1/models", token=SECRET)
        assert server.stop(signal.SIGINT) == (130, "")
        shown = "\n".join(server.lines)
        assert re.search(r"\d\d:\d\d:\d\d  200   1 → 8 tokens  ", shown)
        assert re.search(r"401   GET /v1/models", shown)
        assert SECRET not in shown
        assert "\x1b" not in shown


def test_a_second_ctrl_c_ends_it_at_once(tiny_run):
    flags = ("--max-tokens", 10_000_000, "--request-timeout", "10m", "--grace", "10m")
    with ServeProcess(tiny_run, *flags) as server:
        asked = {"prompt": "1", "max_tokens": 10_000_000}
        statuses = []

        def ask():
            try:
                fetch(f"{server.url}/v1/completions", asked)
            except urllib.error.HTTPError as error:
                statuses.append(error.code)

        thread = threading.Thread(target=ask)
        thread.start()
        until(lambda: b"minitx_active_rows 1.0" in fetch(f"{server.url}/metrics"))
        server.send(signal.SIGINT)
        until(lambda: any(line.startswith("stopping: 1") for line in server.lines))
        assert server.stop(signal.SIGINT) == (130, "")
        thread.join()
        assert statuses == [503]
        assert "1 of them cut off" in server.lines[-1]
