"""What a server serves, where, to whom, and how much it takes on."""

# ruff: noqa: RUF009 (`option` makes a dataclass field)

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from minitx.config.checks import parse_duration
from minitx.config.load_config import LoadConfig
from minitx.config.options import ACCESS, LIMITS, LOADED, SHOWN, Config, option


@dataclass(frozen=True)
class Limits(Config, named_by_flags=True):
    """Bounds that keep one client from taking the server from the others."""

    # fmt: off
    max_concurrent: int = option(64, "Continuations generated at once.", LIMITS, (1, 4096))
    max_queue: int = option(
        256, "Continuations that may wait for their turn.", LIMITS, (0, 100_000)
    )
    max_tokens: int = option(4096, "Longest continuation, in tokens.", LIMITS, (1, 10**7))
    max_prompt_tokens: int | None = option(
        None, "Longest prompt, in tokens; the context if left out.", LIMITS, (1, 10**7)
    )
    max_body_bytes: int = option(1 << 20, "Largest request, in bytes.", LIMITS, (256, 1 << 30))
    request_timeout: float = option(
        600.0, "Longest that an answer may take.", LIMITS, (0.01, 1e6),
        details="Seconds from the request's last byte to the answer's last.", parse=parse_duration,
    )
    client_timeout: float = option(
        30.0, "Longest that a client may take to send a request, or to take in what is sent to it.",
        LIMITS, (0.01, 1e6), parse=parse_duration,
    )
    max_unsent: int = option(
        2048, "Tokens of a stream that may wait for a client who reads slowly.", within=(1, 10**7),
        flag=None,
    )
    grace: float = option(
        30.0, "Time that running requests have to end after Ctrl-C.", LIMITS, (0.0, 1e6),
        parse=parse_duration,
    )
    # fmt: on

    @property
    def max_connections(self) -> int:
        """Connections that may be open: one for each continuation, and some to ask how it goes."""
        return self.max_concurrent + self.max_queue + 64


@dataclass(frozen=True)
class ServeRequest(Config, named_by_flags=True):
    """What to serve (a run or a checkpoint, the newest run if None), where, and to whom."""

    run: Path | None = None
    host: str = option(
        "127.0.0.1", "Address to listen at; any but this machine's own needs a token."
    )
    port: int = option(8000, "Port to listen at; 0 for any that is free.", within=(0, 65535))
    token_file: Path | None = option(
        None, "Has the token that clients must show; or set MINITX_SERVE_TOKEN.", ACCESS
    )
    quiet: bool = option(False, "No line for each request.", SHOWN)
    model_name: str | None = option(None, "As clients know it; the run's if left out.", LOADED)
    limits: Limits = field(default_factory=Limits)
    load: LoadConfig = field(default_factory=LoadConfig)
