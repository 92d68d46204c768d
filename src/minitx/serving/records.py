"""What is known of a request when it has ended."""

from __future__ import annotations

from dataclasses import dataclass

CLIENT_LEFT = 499
"""Stands for the status of a request whose client left before the answer's end."""


@dataclass
class RequestRecord:
    """One request.

    Attributes:
        method: of HTTP.
        path: asked for.
        status: of the answer; of what cut a stream off, if something did.
        reason: why there is no good answer; None if there is one.
        n_choices: continuations asked for.
        n_prompt_tokens: read.
        n_new: tokens generated.
        seconds_to_first_token: from its arrival; None if there was no token.
        seconds: from its arrival to its end.
    """

    method: str
    path: str
    status: int = 500
    reason: str | None = None
    n_choices: int = 0
    n_prompt_tokens: int = 0
    n_new: int = 0
    seconds_to_first_token: float | None = None
    seconds: float = 0.0
