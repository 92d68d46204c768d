"""What the server counts, in the text format of Prometheus, and its record of one request."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

# Nobody needs to know when each series began.
disable_created_metrics()  # type: ignore[no-untyped-call]

_RATE_SECONDS = 10.0
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_STEP_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)


CLIENT_LEFT = 499
"""Stands for the status of a request whose client left before the end of the answer."""


@dataclass
class RequestRecord:
    """One request, when it has ended, with times from its arrival."""

    method: str
    path: str
    status: int = 500  # Of the answer; of what cut a stream off, if something did.
    reason: str | None = None  # Why it was not answered well.
    n_choices: int = 0  # Continuations asked for.
    n_prompt_tokens: int = 0
    n_new: int = 0  # Tokens generated.
    seconds_to_first_token: float | None = None
    seconds: float = 0.0


class Metrics:
    """Counters, gauges and histograms of one server; safe to use from any thread."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)

        def counter(name: str, text: str, labels: tuple[str, ...] = ()) -> Counter:
            return Counter(f"minitx_{name}", text, labels, registry=self.registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"minitx_{name}", text, registry=self.registry, buckets=buckets)

        self.requests = counter("requests", "Requests answered, by HTTP status.", ("status",))
        self.prompt_tokens = counter("prompt_tokens", "Tokens of the prompts that were read.")
        self._tokens = counter("generated_tokens", "Tokens generated.")
        self.first_token_seconds = histogram(
            "time_to_first_token_seconds", "From a request's arrival to its first token.", _SECONDS
        )
        self.completion_seconds = histogram(
            "completion_seconds", "From a completion's arrival to its end.", _SECONDS
        )
        self._steps = histogram(
            "step_seconds", "One step: a token for each active row.", _STEP_SECONDS
        )
        self._recent: deque[tuple[float, int]] = deque()
        self.gauge(
            "tokens_per_second",
            f"Tokens generated a second, over the last {_RATE_SECONDS:.0f} seconds.",
            self.rate,
        )

    def gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        """Add a gauge that calls a function whenever it is read."""
        Gauge(f"minitx_{name}", text, registry=self.registry).set_function(read)

    def tokens(self, n: int) -> None:
        """Count generated tokens."""
        self._tokens.inc(n)
        now = time.monotonic()
        self._recent.append((now, n))
        while self._recent and self._recent[0][0] < now - _RATE_SECONDS:
            self._recent.popleft()

    def step(self, seconds: float, n: int) -> None:
        """Add a step that generated so many tokens."""
        self._steps.observe(seconds)
        self.tokens(n)

    def rate(self) -> float:
        """Tokens per second, over the last `_RATE_SECONDS`."""
        since = time.monotonic() - _RATE_SECONDS
        return sum(n for when, n in list(self._recent) if when >= since) / _RATE_SECONDS

    def text(self) -> bytes:
        """All metrics, as Prometheus reads them."""
        return generate_latest(self.registry)
