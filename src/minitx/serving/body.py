"""Reads the body of a request, within limits of size and time."""

from __future__ import annotations

import asyncio

from starlette.requests import Request

from minitx.serving.api_errors import APIError


async def read_body(request: Request, max_bytes: int, seconds: float) -> bytes:
    """The body of a JSON request of at most `max_bytes`, which must arrive within `seconds`.

    Raises:
        APIError: 415 if its type is not JSON, 413 if it is too large, 408 if it takes too long.
        ClientDisconnect: the client left before its end.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        # Also for safety: a web page of another origin may send other types unasked.
        raise APIError(
            415, "Send JSON, with the header Content-Type: application/json.", close=True
        )
    length = request.headers.get("content-length", "")
    if length.isdecimal() and (len(length) > 18 or int(length) > max_bytes):
        raise _too_large(max_bytes)
    try:
        return await asyncio.wait_for(_read(request, max_bytes), seconds)
    except asyncio.TimeoutError:
        raise APIError(408, "The request did not come to its end in time.", close=True) from None


async def _read(request: Request, max_bytes: int) -> bytes:
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > max_bytes:
            raise _too_large(max_bytes)
    return bytes(body)


def _too_large(max_bytes: int) -> APIError:
    return APIError(413, f"The request is larger than {max_bytes} bytes.", close=True)
