"""Put a model behind an HTTP port: what `minitx serve` does, as library calls."""

from __future__ import annotations

import contextlib
import time

from minitx.checkpoint.manifest import weights_digest
from minitx.config import ServeRequest
from minitx.errors import BadInputError
from minitx.serving.access import local_name, read_token
from minitx.serving.http_app import Listening
from minitx.serving.jobs import ServedModel
from minitx.serving.server import ExitReport, Screen, ServerStop, listen, run
from minitx.workflows.load import LoadedModel, load


def serve(request: ServeRequest, screen: Screen) -> ExitReport:
    """Serve until a signal to stop.

    Raises:
        BadInputError: the run, the token, the host or the port can't be used.
        DamagedFileError: the checkpoint is damaged.
    """
    token = read_token(request.token_file)
    own_name = local_name(request.host, token)
    # Before the model is loaded, so that a port in use is reported at once.
    with listen(request.host, request.port) as opened:
        how = request.load
        loaded = load(request.run, how.checkpoint, how.device, how.dtype, how.quantize)
        served = describe(loaded, request.model_name)
        host = f"[{request.host}]" if ":" in request.host else request.host
        url = f"http://{host}:{opened.getsockname()[1]}"
        listening = Listening(opened, served, url, request.limits, token, own_name)
        stop = ServerStop()
        with stop:
            stop.defer()
            return run(listening, screen, stop)


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
    created = time.time()
    with contextlib.suppress(OSError):  # Training may have pruned it since it was loaded.
        created = (directory / "model.safetensors").stat().st_mtime
    return ServedModel(directory, loaded.model, loaded.tokenizer, name, int(created), fingerprint)
