"""Reading a request, no larger and no longer than is allowed."""

from __future__ import annotations

import asyncio

from starlette.datastructures import Headers
from starlette.types import Receive

from minitx.serving.api_errors import Refusal
from minitx.serving.update_queue import ClientLeftError


async def read_body(headers: Headers, receive: Receive, most: int, seconds: float) -> bytes:
    """The body of a JSON request.

    Args:
        headers: of the request.
        receive: of ASGI.
        most: bytes.
        seconds: in which it must have come.

    Raises:
        Refusal: 415 if it is not said to be JSON, 413 if it is too large, 408 if it takes too long.
        ClientLeftError: the client left before its end.
    """
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        # Also because a web page of another origin may send other types unasked, but not this.
        raise Refusal(415, "Send JSON, with the header Content-Type: application/json.", close=True)
    length = headers.get("content-length", "")
    if length.isdecimal() and (len(length) > 18 or int(length) > most):
        raise _too_large(most)
    try:
        return await asyncio.wait_for(_read(receive, most), seconds)
    except asyncio.TimeoutError:
        raise Refusal(408, "The request did not come to its end in time.", close=True) from None


async def _read(receive: Receive, most: int) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeftError
        body += message.get("body", b"")
        if len(body) > most:
            raise _too_large(most)
        if not message.get("more_body", False):
            return bytes(body)


def _too_large(most: int) -> Refusal:
    return Refusal(413, f"The request is larger than {most} bytes.", close=True)
