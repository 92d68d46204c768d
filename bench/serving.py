"""Serving under load: 64 streams at once, wave after wave, beside the same batch without HTTP.

python bench/serving.py

The server is a process of its own; the clients are this process, on the same machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import IO

import torch
from generation import _model as random_model
from generation import _tokenizer as letters
from harness import Result, Table, Target, publish
from peers import SHAKESPEARE_GPU

from minitx.checkpoint.huggingface import save_model
from minitx.config import SamplingConfig
from minitx.generation import Row, TextBatch
from minitx.workflows.load import LoadedModel, open_checkpoint

_SETTLING_SECONDS = 0.5
_SHORT = 8


@dataclass(frozen=True)
class Stream:
    """What one client saw, in seconds since its wave began.

    Attributes:
        arrivals: of each event that had text.
        n_tokens: as the closing count says; 0 if the stream did not end well.
    """

    arrivals: tuple[float, ...]
    n_tokens: int

    @property
    def gaps(self) -> list[float]:
        return [after - before for before, after in pairwise(self.arrivals)]


@dataclass(frozen=True)
class Wave:
    """All clients at once.

    Attributes:
        streams: of each client.
        seconds: from the first request to the last byte.
    """

    streams: tuple[Stream, ...]
    seconds: float

    @property
    def n_tokens(self) -> int:
        return sum(stream.n_tokens for stream in self.streams)


@dataclass(frozen=True)
class Seen:
    """What the server did.

    Attributes:
        waves: of the measured load.
        memory: resident bytes after so many requests.
        freed: seconds in which the rows of clients that left were free.
        failed: streams that did not end well, of all.
        n_streams: of all.
    """

    waves: list[Wave]
    memory: list[tuple[int, float]]
    freed: float
    failed: int
    n_streams: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=100, help="of each stream")
    parser.add_argument("--waves", type=int, default=6)
    parser.add_argument("--short-waves", type=int, default=120, help="of 8 tokens, for memory")
    parser.add_argument("--leave", type=int, default=16, help="clients that leave early, at last")
    parser.add_argument("--layers", type=int, help="of the model, to try this out")
    parser.add_argument("--out", type=Path, help="write the JSON here instead")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary) / "model"
        _write_model(directory, given.layers)
        alone = _without_http(open_checkpoint(directory, "cpu"), given.clients, given.tokens)
        seen = _served(directory, given)
    publish(_result(given, alone, seen), given.out)


def _write_model(directory: Path, layers: int | None) -> None:
    torch.manual_seed(0)
    tokenizer = letters()
    model = random_model("qwen3", tokenizer)
    if layers is not None:
        model = type(model)(replace(model.config, n_layers=layers)).eval()
    directory.mkdir()
    save_model(directory, model, tokenizer)


def _prompt(client: int) -> str:
    return "ABCDEFGH"[: 1 + client % 8]


def _without_http(loaded: LoadedModel, clients: int, tokens: int) -> list[float]:
    """Seconds that the batch needs by itself, three times."""
    found = []
    for _ in range(3):
        batch = TextBatch(loaded.model, loaded.tokenizer)
        rows = [
            Row(
                loaded.tokenizer.encode(_prompt(client)).tolist(),
                SamplingConfig(temperature=1.0, max_new_tokens=tokens, seed=client),
            )
            for client in range(clients)
        ]
        began = time.perf_counter()
        batch.add(rows)
        while batch.rows:
            batch.step()
        found.append(time.perf_counter() - began)
    return found


def _served(directory: Path, given: argparse.Namespace) -> Seen:
    command = [
        sys.executable, "-m", "minitx", "serve", str(directory), "--port", "0", "--quiet",
        "--device", "cpu", "--max-concurrent", str(given.clients), "--max-tokens", "1000000",
    ]  # fmt: skip
    # Output goes to a file: nobody reads a pipe while the clients run.
    with tempfile.TemporaryFile("w+") as printed:
        server = subprocess.Popen(command, stdout=printed)
        try:
            port = _port(server, printed)
            waves = []
            for number in range(given.waves):
                waves.append(asyncio.run(_wave(port, given.clients, given.tokens)))
                rate = waves[-1].n_tokens / waves[-1].seconds
                print(f"wave {number + 1}: {rate:,.0f} tokens/s", file=sys.stderr, flush=True)
            failed = sum(s.n_tokens != given.tokens for wave in waves for s in wave.streams)
            memory, failed_short = _endure(port, given)
            freed = asyncio.run(_leave(port, given.leave))
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(60)
    n_streams = given.clients * (given.waves + given.short_waves)
    return Seen(waves, memory, freed, failed + failed_short, n_streams)


def _endure(port: int, given: argparse.Namespace) -> tuple[list[tuple[int, float]], int]:
    """Memory after a growing number of requests, and how many streams failed."""
    failed, memory = 0, []
    quarters = {round(part * given.short_waves / 4) for part in range(5)}
    for number in range(given.short_waves + 1):
        if number in quarters:
            # The engine gives the batch's memory back once nobody is left: a moment later.
            time.sleep(_SETTLING_SECONDS)
            size = _metric(port, "process_resident_memory_bytes")
            memory.append((given.clients * (given.waves + number), size))
        if number < given.short_waves:
            wave = asyncio.run(_wave(port, given.clients, _SHORT))
            failed += sum(stream.n_tokens != _SHORT for stream in wave.streams)
    return memory, failed


def _port(server: subprocess.Popen[bytes], printed: IO[str]) -> int:
    while server.poll() is None:
        # Read without moving where the server writes: both share one position.
        content = os.pread(printed.fileno(), 1 << 16, 0).decode()
        if found := re.search(r"http://127\.0\.0\.1:(\d+)  ", content):
            return int(found[1])
        time.sleep(0.05)
    raise SystemExit("the server did not start")


def _metric(port: int, name: str) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        found = re.search(rf"^{name} (\S+)$", answer.read().decode(), re.MULTILINE)
    return float(found[1]) if found else float("nan")


async def _ask(port: int, **fields: object) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    body = json.dumps({"stream": True, "stream_options": {"include_usage": True}, **fields})
    writer.write(
        "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
    )
    return reader, writer


async def _wave(port: int, clients: int, tokens: int) -> Wave:
    began = time.perf_counter()

    async def one(client: int) -> Stream:
        reader, writer = await _ask(
            port, prompt=_prompt(client), max_tokens=tokens, seed=client, temperature=1.0
        )
        arrivals, n_tokens, done = [], 0, False
        while line := await reader.readline():
            if line.startswith(b"data: [DONE]"):
                done = True
            elif line.startswith(b"data: "):
                # Parsed only where it must be: the clients take their time from the server.
                if b'"choices":[]' in line:
                    n_tokens = json.loads(line[6:])["usage"]["completion_tokens"]
                else:
                    arrivals.append(time.perf_counter() - began)
        writer.close()
        return Stream(tuple(arrivals), n_tokens if done else 0)

    streams = await asyncio.gather(*map(one, range(clients)))
    seconds = time.perf_counter() - began
    return Wave(tuple(streams), seconds)


async def _leave(port: int, clients: int) -> float:
    """Seconds until no row is left of clients who went away in the middle."""
    pairs = [await _ask(port, prompt="A", max_tokens=1_000_000) for _ in range(clients)]
    for reader, _ in pairs:
        await reader.readline()
    while _metric(port, "minitx_active_rows") < clients:
        await asyncio.sleep(0.01)
    for _, writer in pairs:
        writer.transport.abort()
    began = time.perf_counter()
    while _metric(port, "minitx_active_rows") > 0:
        await asyncio.sleep(0.002)
    return time.perf_counter() - began


def _result(given: argparse.Namespace, alone: Sequence[float], seen: Seen) -> Result:
    clients, tokens, waves = given.clients, given.tokens, seen.waves
    streams = [stream for wave in waves for stream in wave.streams]
    rates = [wave.n_tokens / wave.seconds for wave in waves]
    own = clients * tokens / statistics.median(alone)
    firsts = sorted(stream.arrivals[0] for stream in streams if stream.arrivals)
    gaps = sorted(gap for stream in streams for gap in stream.gaps)
    # In each wave: the slowest stream's time over the fastest one's.
    spread = max(
        max(s.arrivals[-1] for s in wave.streams) / min(s.arrivals[-1] for s in wave.streams)
        for wave in waves
        if all(s.arrivals for s in wave.streams)
    )
    # What comes first makes room for the batch, and leaves gaps in the heap that are used later.
    half = seen.memory[len(seen.memory) // 2]
    growth = seen.memory[-1][1] - half[1]
    rate = statistics.median(rates)
    return Result(
        name="serving",
        title="Serving",
        about=f"{clients} clients stream {tokens} tokens each at once, in {len(waves)} waves (and "
        f"{_SHORT} tokens in {given.short_waves} more, for the memory), from `minitx serve` with "
        f"{SHAKESPEARE_GPU.name}, context {SHAKESPEARE_GPU.context}, random "
        "weights, float32. Server and clients are two processes on the same processor, so the "
        "clients' own work counts against the server. Without HTTP means the same rows in one "
        "`TextBatch`, in the same run.",
        tables=[
            Table(
                "Tokens a second, all streams together:",
                ["what", "tokens/s", "lowest", "highest"],
                [
                    ["served", *(f"{x:,.0f}" for x in (rate, min(rates), max(rates)))],
                    [
                        "without HTTP",
                        *(
                            f"{clients * tokens / x:,.0f}"
                            for x in (statistics.median(alone), max(alone), min(alone))
                        ),
                    ],
                ],
            ),
            Table(
                "What a client sees:",
                ["what", "median", "95 %", "slowest"],
                [
                    ["first token, ms", *_milliseconds(firsts)],
                    ["between two tokens, ms", *_milliseconds(gaps)],
                ],
            ),
            Table(
                "Memory of the server:",
                ["after requests", "resident MB"],
                [[f"{n:,}", f"{size / 1e6:,.1f}"] for n, size in seen.memory],
            ),
        ],
        targets=[
            Target(
                "no stream fails", f"{seen.failed} of {seen.n_streams:,} failed", seen.failed == 0
            ),
            Target(
                "fair: the slowest stream of a wave takes at most 1.2 times the fastest's time",
                f"{spread:.2f} times",
                spread <= 1.2,
            ),
            Target(
                f"memory flat: under 5 MB more at the end than after {half[0]:,} requests",
                f"{growth / 1e6:+.1f} MB",
                growth < 5e6,
            ),
            Target(
                f"{given.leave} clients that leave free their rows within 100 ms",
                f"{1000 * seen.freed:.0f} ms",
                seen.freed < 0.1,
            ),
            Target("half the rate without HTTP", f"{100 * rate / own:.0f} %", rate >= own / 2),
        ],
        raw={
            "without_http_seconds": list(alone),
            "wave_seconds": [wave.seconds for wave in waves],
            "resident_bytes": [list(one) for one in seen.memory],
            "first_token_seconds": firsts,
        },
    )


def _milliseconds(ordered: Sequence[float]) -> list[str]:
    picked = (ordered[len(ordered) // 2], ordered[int(0.95 * len(ordered))], ordered[-1])
    return [f"{1000 * seconds:,.0f}" for seconds in picked]


if __name__ == "__main__":
    main()
