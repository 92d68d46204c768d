"""Who may send requests: clients with the token, or programs on this machine."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import os
import socket
from pathlib import Path

from starlette.datastructures import Headers

from minitx.errors import BadInputError
from minitx.files import os_errors_as_bad_input
from minitx.serving.api_errors import APIError

TOKEN_VARIABLE = "MINITX_SERVE_TOKEN"
_SHORTEST_TOKEN = 16
_OPEN_PATHS = frozenset({"/health"})
_LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
_HOW = "python -c 'import secrets; print(secrets.token_urlsafe(32))' > token.txt"


def read_token(file: Path | None) -> str | None:
    """The token that clients must show, from a file or else from the variable; None for none.

    Raises:
        BadInputError: the file can't be read, or its content can't be a token.
    """
    if file is None:
        source, token = TOKEN_VARIABLE, os.environ.get(TOKEN_VARIABLE)
        if token is None:
            return None
    else:
        source = f"token file {file}"
        with (
            os_errors_as_bad_input(f"{source} can't be read", f"Make one with: {_HOW}"),
            file.open("rb") as opened,
        ):
            token = opened.read(4096).decode("ascii", "replace")
    token = token.strip()
    if len(token) < _SHORTEST_TOKEN or not all("!" <= character <= "~" for character in token):
        raise BadInputError(
            f"the token of {source} is not {_SHORTEST_TOKEN} or more visible ASCII characters",
            f"Make one with: {_HOW}",
        )
    return token


def local_name(host: str, token: str | None) -> str | None:
    """The host, if it means this machine alone; else None.

    Raises:
        BadInputError: it can't be resolved, or lets other machines in and there is no token.
    """
    try:
        addresses = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise BadInputError(
            f"--host {host} is no address of this machine", "Leave it out, or use 0.0.0.0"
        ) from None
    names = [str(address[4][0]).partition("%")[0] for address in addresses]
    if all(ipaddress.ip_address(name).is_loopback for name in names):
        return host
    if token is None:
        raise BadInputError(
            f"--host {host} lets other machines in, and there is no token to know them by",
            f"Set {TOKEN_VARIABLE} or --token-file; make one with: {_HOW}",
        )
    return None


class Guard:
    """Refuses requests that are not allowed, before anything of their body is read.

    Args:
        token: that requests must show; None for none.
        host: that the server listens at, if to this machine alone; else None. Then the request's
            Host must name this machine: a web page can make its own name resolve to this machine
            (DNS rebinding), but its requests carry that name.
    """

    def __init__(self, token: str | None, host: str | None) -> None:
        self._digest = None if token is None else _digest(token.encode())
        self._names = None if host is None else _LOCAL_NAMES | {host.lower()}

    def check(self, path: str, headers: Headers) -> None:
        """Raise APIError 401 or 421 for a request that is not allowed."""
        if self._names is not None and _name_of(headers.get("host", "")) not in self._names:
            raise APIError(421, "This server does not answer to that host name.", close=True)
        if self._digest is not None and path not in _OPEN_PATHS:
            kind, _, shown = headers.get("authorization", "").partition(" ")
            shown_digest = _digest(shown.strip().encode("utf-8", "replace"))
            # In constant time, over digests, so that neither content nor length leaks.
            if not hmac.compare_digest(shown_digest, self._digest) or kind.lower() != "bearer":
                raise APIError(401, "No valid token was given.", code="invalid_api_key", close=True)


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()


def _name_of(host: str) -> str:
    # Without the port: localhost:8000, [::1]:8000.
    host = host.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]
