"""The ASGI application of a page that asks its own server for what it shows."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

import anyio.to_thread
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from minitx.config import Limits
from minitx.errors import MinitxError
from minitx.serving.access import Guard
from minitx.serving.api_errors import APIError, broken
from minitx.serving.completion_request import parse_json
from minitx.serving.http_app import json_response, read_body

_ANSWERS = "/answers/"
_HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; "
    "form-action 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
_log = logging.getLogger("minitx")


class PageApp:
    """GET / is the page; POST /answers/NAME with a JSON object is answered by a function.

    Only programs and pages of this machine are answered. The functions run in a thread, one at a
    time. An error that a person can mend is an answer with 400 and its one line.
    """

    def __init__(self, page: str, answers: Mapping[str, Callable[[dict[str, Any]], Any]]) -> None:
        self._page = page.encode("utf-8", "replace")
        self._answers, self._guard = answers, Guard(None, "127.0.0.1")
        self._turn = asyncio.Semaphore()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        try:
            self._guard.check(scope["path"], Headers(scope=scope))
            response = await self._answer(request)
        except ClientDisconnect:
            return
        except APIError as error:
            response = json_response(error.body, error.status, error.headers)
        except Exception as error:
            _log.exception("a request failed, and was answered with 500", exc_info=error)
            response = json_response(broken().body, 500)
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        path = request.url.path
        if path == "/":
            if request.method not in ("GET", "HEAD"):
                raise APIError(405, "This path does not answer to that method.", allow="GET")
            return Response(self._page, 200, _HEADERS, "text/html; charset=utf-8")
        answer = self._answers.get(path.removeprefix(_ANSWERS))
        if answer is None or not path.startswith(_ANSWERS):
            raise APIError(404, "There is nothing at this path.")
        if request.method != "POST":
            raise APIError(405, "This path does not answer to that method.", allow="POST")
        given = parse_json(await read_body(request, Limits()))
        async with self._turn:
            try:
                content = await anyio.to_thread.run_sync(answer, given)
            except MinitxError as error:
                raise APIError(400, str(error)) from None
        return json_response(content, 200, {"cache-control": "no-store"})
