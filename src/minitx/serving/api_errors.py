"""Answers that say no, in the form of OpenAI's API."""

from __future__ import annotations

import math
from typing import Any


class Refusal(Exception):  # noqa: N818 - it is an answer, and no defect
    """A request that is answered with an error.

    Args:
        status: of HTTP.
        message: for the person who made the request; nothing of the server's files or code.
        param: the field that is at fault.
        code: for programs.
        retry_after: seconds after which it may be tried again.
        close: the connection ends with this answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
        close: bool = False,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.retry_after, self.close = retry_after, close

    @property
    def body(self) -> dict[str, Any]:
        """The JSON object that tells it."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        if self.status == 429:
            kind = "rate_limit_error"
        return {
            "error": {
                "message": self.message,
                "type": kind,
                "param": self.param,
                "code": self.code,
            }
        }

    @property
    def headers(self) -> dict[str, str]:
        """Headers that belong to it."""
        found = {}
        if self.retry_after is not None:
            found["retry-after"] = str(max(1, math.ceil(self.retry_after)))
        if self.status == 401:
            found["www-authenticate"] = "Bearer"
        if self.close:
            found["connection"] = "close"
        return found


def stopping() -> Refusal:
    """The server is told to stop."""
    return Refusal(503, "The server is stopping.", code="stopping", retry_after=5, close=True)


def broken() -> Refusal:
    """Something failed that is not the client's fault."""
    return Refusal(500, "The server failed to answer this request.", code="internal_error")
