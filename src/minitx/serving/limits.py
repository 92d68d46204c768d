"""How much a server takes on."""

from __future__ import annotations

from dataclasses import dataclass

from minitx.config.checks import require_range


@dataclass(frozen=True)
class Limits:
    """Bounds that keep one client from taking the server from the others.

    Attributes:
        max_concurrent: continuations generated at once.
        max_queue: continuations that may wait for their turn.
        max_tokens: longest continuation that may be asked for.
        max_prompt_tokens: longest prompt; None for the model's context.
        max_body_bytes: largest request.
        request_timeout: seconds from the request's last byte to the answer's last.
        client_timeout: seconds that a client may take to send a request, or to read what was
            sent to it.
        max_unsent: tokens of a stream that may wait for a client that reads slowly.
        grace: seconds that running requests have to end after a signal to stop.
    """

    max_concurrent: int = 64
    max_queue: int = 256
    max_tokens: int = 4096
    max_prompt_tokens: int | None = None
    max_body_bytes: int = 1 << 20
    request_timeout: float = 600.0
    client_timeout: float = 30.0
    max_unsent: int = 2048
    grace: float = 30.0

    def __post_init__(self) -> None:
        require_range("--max-concurrent", self.max_concurrent, 1, 4096)
        require_range("--max-queue", self.max_queue, 0, 100_000)
        require_range("--max-tokens", self.max_tokens, 1, 10**7)
        if self.max_prompt_tokens is not None:
            require_range("--max-prompt-tokens", self.max_prompt_tokens, 1, 10**7)
        require_range("--max-body-bytes", self.max_body_bytes, 256, 1 << 30)
        require_range("--request-timeout", self.request_timeout, 0.01, 10**6)
        require_range("--client-timeout", self.client_timeout, 0.01, 10**6)
        require_range("max_unsent", self.max_unsent, 1, 10**7)
        require_range("--grace", self.grace, 0.0, 10**6)

    @property
    def max_connections(self) -> int:
        """Connections that may be open: one for each continuation, and some for other requests."""
        return self.max_concurrent + self.max_queue + 64
