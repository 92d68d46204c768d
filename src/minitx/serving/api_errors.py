"""Error answers, in the form of OpenAI's API."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any


@dataclass(eq=False)
class APIError(Exception):
    """A request is answered with an error; that is no defect of the server.

    The message is for the person who made the request, and tells nothing of the server's files or
    code. `param` is the field at fault, `retry_after` in seconds, and `allow` the methods that the
    path answers to. With `close`, the connection ends after this answer.
    """

    status: int
    message: str
    param: str | None = None
    code: str | None = None
    retry_after: float | None = None
    allow: str | None = None
    close: bool = False

    @property
    def body(self) -> dict[str, Any]:
        """The JSON object of the answer."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        kind = "rate_limit_error" if self.status == 429 else kind
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return {"error": error}

    @property
    def headers(self) -> dict[str, str]:
        """Headers of the answer."""
        headers = {}
        if self.retry_after is not None:
            headers["retry-after"] = str(max(1, math.ceil(self.retry_after)))
        if self.allow is not None:
            headers["allow"] = self.allow
        if self.status == 401:
            headers["www-authenticate"] = "Bearer"
        if self.close:
            headers["connection"] = "close"
        return headers


def stopping() -> APIError:
    """The server is told to stop."""
    return APIError(503, "The server is stopping.", code="stopping", retry_after=5, close=True)


def broken() -> APIError:
    """Something failed, and it is not the client's fault."""
    return APIError(500, "The server failed to answer this request.", code="internal_error")
