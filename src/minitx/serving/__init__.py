"""A model as an HTTP service; needs the extra `serve`.

Read `batch_engine`, then `completion_request`, `answers`, `http_app`, `server`.
"""

from __future__ import annotations

from importlib.util import find_spec

from minitx.errors import BadInputError

_PACKAGES = ("prometheus_client", "starlette", "uvicorn")


def require_extra(command: str = "serve") -> None:
    """Refuse to go on with a command without the packages of the extra `serve`.

    Raises:
        BadInputError: naming what is missing.
    """
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        raise BadInputError(
            f"minitx {command} needs {', '.join(missing)}, which {'are' if missing[1:] else 'is'}"
            " not installed",
            'Install them with: pip install "minitx[serve]"',
        )
