"""Put a model behind an HTTP port: what `minitx serve` does, as library calls."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from minitx.checkpoint.manifest import weights_digest
from minitx.checkpoint.rundir import find_run, resolve_checkpoint
from minitx.config import Limits, LoadConfig
from minitx.errors import BadInputError
from minitx.serving.access import is_loopback, read_token, require_token
from minitx.serving.http_app import Served
from minitx.serving.records import RequestRecord
from minitx.serving.server import Ending, listen, run
from minitx.workflows.generate import Speaker, open_speaker


@dataclass(frozen=True)
class ServeRequest:
    """What to serve, to whom, and how much of it.

    Attributes:
        run: a run or checkpoint directory; None for the newest run.
        load: which checkpoint of a run, and how.
        host: address to listen at.
        port: 0 for any that is free.
        token_file: has the token; None to look at the environment.
        limits: what is taken on.
        model_name: as clients know it; None for the run's.
    """

    run: Path | None = None
    load: LoadConfig = field(default_factory=LoadConfig)
    host: str = "127.0.0.1"
    port: int = 8000
    token_file: Path | None = None
    limits: Limits = field(default_factory=Limits)
    model_name: str | None = None


@dataclass(frozen=True)
class Listening:
    """A server that answers.

    Attributes:
        served: the model.
        checkpoint: its directory.
        url: where.
        local: whether only this machine may ask.
        token: whether clients must show a token.
        limits: what is taken on.
    """

    served: Served
    checkpoint: Path
    url: str
    local: bool
    token: bool
    limits: Limits


class Screen(Protocol):
    """Is told what happens."""

    def ready(self, listening: Listening) -> None:
        """Requests are answered from now on."""

    def request(self, record: RequestRecord) -> None:
        """One has ended."""

    def stopping(self, n_running: int) -> None:
        """A signal came while so many completions run."""

    def ended(self, ending: Ending) -> None:
        """All is over."""


def serve(request: ServeRequest, screen: Screen) -> Ending:
    """Serve until a signal tells to stop.

    Raises:
        BadInputError: the run, the token, the host or the port can't be used.
        DamagedFileError: the checkpoint is damaged.
    """
    load, token = request.load, read_token(request.token_file)
    require_token(request.host, token)
    local = is_loopback(request.host)
    # Before the model is loaded: a port that is taken is told at once.
    with listen(request.host, request.port) as listening:
        checkpoint = resolve_checkpoint(request.run, load.checkpoint)
        speaker = open_speaker(checkpoint, load.device, load.dtype, load.quantize)
        served = describe(speaker, request.model_name)
        host = f"[{request.host}]" if ":" in request.host else request.host
        url = f"http://{host}:{listening.getsockname()[1]}"
        told = Listening(served, checkpoint, url, local, token is not None, request.limits)
        ending = run(
            listening,
            served,
            request.limits,
            token,
            request.host if local else None,
            on_ready=lambda: screen.ready(told),
            on_request=screen.request,
            on_stopping=screen.stopping,
        )
    screen.ended(ending)
    return ending


def describe(speaker: Speaker, name: str | None = None) -> Served:
    """A model as it is served.

    Args:
        speaker: the model.
        name: as clients know it; None for that of its run, or of its directory.

    Raises:
        BadInputError: the name is empty, long, or has other than visible ASCII characters.
    """
    directory = speaker.checkpoint
    if name is None:
        found = find_run(directory)
        name = (directory if found is None else found.path).absolute().name
    elif not (0 < len(name) <= 200 and all("!" <= one <= "~" for one in name)):
        raise BadInputError(
            "--model-name is not 1 to 200 visible ASCII characters", "Choose one like my-model"
        )
    digest = weights_digest(directory)
    fingerprint = None if digest is None else f"fp_{digest[:12]}"
    created = int((directory / "model.safetensors").stat().st_mtime)
    return Served(name, speaker.model, speaker.tokenizer, created, fingerprint)
