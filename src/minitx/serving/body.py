"""Reads the body of a request, within limits of size and time."""

from __future__ import annotations

import asyncio

from starlette.datastructures import Headers
from starlette.types import Receive

from minitx.serving.api_errors import APIError
from minitx.serving.update_queue import ClientLeftError


async def read_body(headers: Headers, receive: Receive, max_bytes: int, seconds: float) -> bytes:
    """The body of a JSON request of at most `max_bytes`, which must arrive within `seconds`.

    Raises:
        APIError: 415 if its type is not JSON, 413 if it is too large, 408 if it takes too long.
        ClientLeftError: the client left before its end.
    """
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        # Also for safety: a web page of another origin may send other types unasked.
        raise APIError(
            415, "Send JSON, with the header Content-Type: application/json.", close=True
        )
    length = headers.get("content-length", "")
    if length.isdecimal() and (len(length) > 18 or int(length) > max_bytes):
        raise _too_large(max_bytes)
    try:
        return await asyncio.wait_for(_read(receive, max_bytes), seconds)
    except asyncio.TimeoutError:
        raise APIError(408, "The request did not come to its end in time.", close=True) from None


async def _read(receive: Receive, max_bytes: int) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeftError
        body += message.get("body", b"")
        if len(body) > max_bytes:
            raise _too_large(max_bytes)
        if not message.get("more_body", False):
            return bytes(body)


def _too_large(max_bytes: int) -> APIError:
    return APIError(413, f"The request is larger than {max_bytes} bytes.", close=True)
