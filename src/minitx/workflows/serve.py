"""Put a model behind an HTTP port: what `minitx serve` does, as library calls."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from minitx.checkpoint.manifest import weights_digest
from minitx.checkpoint.rundir import Which
from minitx.config import Limits
from minitx.errors import BadInputError
from minitx.serving.access import is_loopback, read_token, require_token
from minitx.serving.http_app import ServedModel
from minitx.serving.metrics import RequestRecord
from minitx.serving.server import ExitReport, listen, run
from minitx.workflows.load import LoadedModel, load


@dataclass(frozen=True)
class ServeRequest:
    """What to serve, where, and within which limits.

    Attributes:
        run: a run or checkpoint directory; None for the newest run.
        which: which checkpoint of a run.
        host: address to listen at.
        port: 0 for any that is free.
        token_file: with the token; None to look in the environment.
        limits: of requests.
        model_name: as clients know it; None for the run's.
        device, dtype, quantize: as in `load`.
    """

    run: Path | None = None
    which: Which = "best"
    host: str = "127.0.0.1"
    port: int = 8000
    token_file: Path | None = None
    limits: Limits = field(default_factory=Limits)
    model_name: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    quantize: str | None = None


@dataclass(frozen=True)
class Listening:
    """A server that answers requests.

    Attributes:
        checkpoint: directory of the model.
        local: whether it listens to this machine alone.
        token: whether clients must send a token.
    """

    served: ServedModel
    checkpoint: Path
    url: str
    local: bool
    token: bool
    limits: Limits


class Screen(Protocol):
    """Is called with what happens."""

    def ready(self, listening: Listening) -> None:
        """The server answers requests from now on."""

    def request(self, record: RequestRecord) -> None:
        """A request has ended."""

    def stopping(self, n_running: int) -> None:
        """A signal to stop arrived while so many completions run."""

    def ended(self, report: ExitReport) -> None:
        """The server has stopped."""


def serve(request: ServeRequest, screen: Screen) -> ExitReport:
    """Serve until a signal to stop.

    Raises:
        BadInputError: the run, the token, the host or the port can't be used.
        DamagedFileError: the checkpoint is damaged.
    """
    token = read_token(request.token_file)
    require_token(request.host, token)
    local = is_loopback(request.host)
    # Before the model is loaded, so that a port in use is reported at once.
    with listen(request.host, request.port) as listening:
        loaded = load(request.run, request.which, request.device, request.dtype, request.quantize)
        served = describe(loaded, request.model_name)
        host = f"[{request.host}]" if ":" in request.host else request.host
        url = f"http://{host}:{listening.getsockname()[1]}"
        ready = Listening(served, loaded.directory, url, local, token is not None, request.limits)
        report = run(
            listening, served, request.limits, token, request.host if local else None,
            on_ready=lambda: screen.ready(ready), on_request=screen.request,
            on_stopping=screen.stopping,
        )  # fmt: skip
    screen.ended(report)
    return report


def describe(loaded: LoadedModel, name: str | None = None) -> ServedModel:
    """The model as clients see it, under the name of its run or of its directory if none is given.

    Raises:
        BadInputError: the name is empty, long, or has other than visible ASCII characters.
    """
    directory = loaded.directory
    if name is None:
        name = (loaded.run or directory).absolute().name
        name = "".join(character if character.isprintable() else "?" for character in name)
    elif not (0 < len(name) <= 200 and all("!" <= character <= "~" for character in name)):
        raise BadInputError(
            "--model-name is not 1 to 200 visible ASCII characters", "Choose one like my-model"
        )
    digest = weights_digest(directory)
    fingerprint = None if digest is None else f"fp_{digest[:12]}"
    created = int((directory / "model.safetensors").stat().st_mtime)
    return ServedModel(name, loaded.model, loaded.tokenizer, created, fingerprint)
