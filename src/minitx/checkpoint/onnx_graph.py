"""A model as one ONNX file: the graph of `model/transformer.py`, from ids to logits.

The batch and the length are free, up to the context. What was written is run by onnxruntime and
compared before it takes its name.
"""

from __future__ import annotations

import importlib.util
import logging
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from minitx.checkpoint.own_model import OwnModel
from minitx.errors import BadInputError
from minitx.files import replacing
from minitx.model import Transformer
from minitx.model.trace import Trace

_PACKAGES = ("onnx", "onnxruntime", "onnxscript")
_MOST_BYTES = 2**31 - 2**20  # A file is one message of protobuf, which has a limit.
_LONGEST = 512
"""Tokens of a text by which a file is checked: logits of long ones fill the memory."""

_CLOSE = 1e-4


def require_onnx() -> None:
    """Refuse to go on without the packages.

    Raises:
        BadInputError: naming what is missing.
    """
    if missing := [name for name in _PACKAGES if importlib.util.find_spec(name) is None]:
        raise BadInputError(
            f"ONNX files need {', '.join(missing)}", 'Install the extra: pip install "minitx[onnx]"'
        )


class _Logits(nn.Module):
    def __init__(self, model: Transformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor) -> Tensor:
        # With a trace, the mask is made from the length alone, and attention is its formula.
        traced = {} if isinstance(self.model, OwnModel) else {"trace": Trace()}
        logits: Tensor = self.model(input_ids, **traced)
        return logits


def write_onnx(path: Path, model: Transformer) -> None:
    """Write `input_ids` (batch, length) int64 to `logits` (batch, length, vocab_size) float32.

    Args:
        model: in float32, on the CPU, in eval mode.

    Raises:
        BadInputError: torch.export does not understand a model of one's own, or the weights are
            too many for one file.
        OSError: it can't be written. An existing file is then as it was.
    """
    if sum(parameter.nbytes for parameter in model.parameters()) > _MOST_BYTES:
        raise BadInputError(
            "an ONNX file holds at most 2 GB of weights", "Use --gguf, or the checkpoint itself"
        )
    batch = torch.export.Dim("batch", min=1)
    longest = model.config.context_length
    dynamic = {0: batch}
    if longest > 1:
        dynamic[1] = torch.export.Dim("length", min=1, max=longest)
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                _Logits(model).eval(),
                (torch.zeros(2, min(3, longest), dtype=torch.int64),),
                input_names=["input_ids"], output_names=["logits"],
                dynamic_shapes=(dynamic,), dynamo=True, verbose=False,
            )  # fmt: skip
    except torch.onnx.errors.OnnxExporterError as error:
        why = str(error.__cause__ or error).splitlines()[0]
        raise BadInputError(
            f"torch.export does not understand this model ({why})", "Change what it names"
        ) from None
    finally:
        log.setLevel(level)
    assert program is not None
    with replacing(path) as beside:
        program.save(beside)
        _compare(beside, model)


def _compare(path: Path, model: Transformer) -> None:
    """Run a file; its logits must be those of the model."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    context, n_ids = model.config.context_length, model.config.vocab_size
    generator = torch.Generator().manual_seed(0)
    most = min(context, _LONGEST)
    for batch, length in ((1, 1), (3, max(1, most // 2)), (1, most)):
        ids = torch.randint(n_ids, (batch, length), generator=generator)
        with torch.no_grad():
            wanted = model(ids).numpy()
        (logits,) = session.run(None, {"input_ids": ids.numpy()})
        largest = max(1.0, float(np.abs(wanted).max()))
        if logits.shape != wanted.shape or not np.abs(logits - wanted).max() <= _CLOSE * largest:
            raise OSError(None, "onnxruntime computes other logits from it")
