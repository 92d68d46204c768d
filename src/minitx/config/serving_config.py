"""How much a server takes on."""

from __future__ import annotations

from dataclasses import dataclass

from minitx.config.checks import parse_duration
from minitx.config.options import LIMITS, Config, option


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
