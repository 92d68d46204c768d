"""A model as a file that other programs run."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from minitx.checkpoint.gguf import require_gguf, write_gguf
from minitx.checkpoint.onnx_graph import require_onnx, write_onnx
from minitx.checkpoint.rundir import Which, find_run
from minitx.config import ExportRequest, SamplingConfig
from minitx.config.requests import GGUFType
from minitx.corpus.part_text import PARTS, PartText
from minitx.errors import BadInputError
from minitx.files import (
    os_errors_as_bad_input,
    possible_path,
    read_bounded,
    read_json,
    write_atomically,
)
from minitx.tokenizer.chat_template import SETTINGS_FILE
from minitx.tokenizer.conversation import TEMPLATE, TOKENS
from minitx.tokenizer.llama_cpp import llama_vocabulary
from minitx.workflows.load import LoadedModel, load

MODELFILE = "Modelfile"

_FIX = "Make room, or write elsewhere"
_READ = 16 << 20
"""Bytes of each part of a corpus by which it is judged how another program cuts it."""


def export(
    run: Path | None, which: Which, request: ExportRequest
) -> tuple[LoadedModel, list[Path]]:
    """Write what is asked for; every file is whole before it has its name.

    Raises:
        BadInputError: a file exists or can't be written, a package is missing, or the program does
            not run such a model.
    """
    # Before seconds are spent on loading.
    if request.gguf is not None:
        require_gguf()
        if request.gguf in (request.onnx, request.gguf.with_name(MODELFILE)):
            raise BadInputError(f"{request.gguf} would be two files at once", "Name another file")
        _require_new(request.gguf)
        _require_untouched(request.gguf.with_name(MODELFILE))
    if request.onnx is not None:
        require_onnx()
        _require_new(request.onnx)
    model = load(run, which, "cpu")
    written = []
    if request.gguf is not None:
        written += _to_gguf(model, request.gguf, request.type)
    if request.onnx is not None:
        with os_errors_as_bad_input(f"{request.onnx} can't be written", _FIX):
            write_onnx(request.onnx, model.model)
        written.append(request.onnx)
    return model, written


def _require_new(path: Path) -> None:
    if os.path.lexists(possible_path(path)):
        raise BadInputError(f"{path} exists", "Remove it, or name another file")
    if not path.name.isprintable():
        raise BadInputError(
            f"{path.name!r} has characters that other programs can't read", "Choose plain ones"
        )
    if not path.parent.is_dir():
        raise BadInputError(f"{path.parent} is not a directory", "Make it, or name another file")


def _require_untouched(path: Path) -> None:
    """Refuse to replace a Modelfile that a person wrote or changed."""
    if not os.path.lexists(path):
        return
    with contextlib.suppress(OSError, ValueError):
        for template in (None, TEMPLATE, ""):
            ours = re.escape(_modelfile("NAME", 0, template))
            ours = ours.replace(b"NAME", b"[^\n]+").replace(rb"num_ctx\ 0", rb"num_ctx\ \d+")
            if re.fullmatch(ours, read_bounded(path)):
                return
    raise BadInputError(
        f"{path} exists, and is not as minitx export makes it",
        "Name a file in another directory, or rename it",
    )


def _to_gguf(model: LoadedModel, path: Path, weights: GGUFType) -> list[Path]:
    config = model.model.config
    vocabulary = llama_vocabulary(model.tokenizer, config.vocab_size, _corpus(model.directory))
    modelfile, chat_template = path.with_name(MODELFILE), _chat_template(model.directory)
    about = _modelfile(path.name, config.context_length, chat_template)
    with os_errors_as_bad_input(f"{path} can't be written", _FIX):
        write_gguf(
            path, model.model, model.tokenizer, vocabulary, weights, path.stem, chat_template
        )
        try:
            write_atomically(modelfile, about)
        except BaseException:
            path.unlink()  # One without the other would be half of it.
            raise
    return [path, modelfile]


def _corpus(checkpoint: Path) -> Iterator[str]:
    """The text that a checkpoint's run was trained and measured on, or some of it."""
    run = find_run(checkpoint)
    if run is not None:
        for name in PARTS:
            part = PartText(run.data, name)
            if part.path.is_file():
                yield from part.sample(_READ)


def _chat_template(checkpoint: Path) -> str | None:
    """How a checkpoint writes a conversation, if it has been taught one."""
    with contextlib.suppress(OSError, ValueError):
        return read_bounded(checkpoint / "chat_template.jinja").decode("utf-8")
    with contextlib.suppress(OSError, ValueError):
        template = read_json(checkpoint / SETTINGS_FILE).get("chat_template")
        return template if isinstance(template, str) else None
    return None


_OLLAMA_TEMPLATE = (
    '{{ range .Messages }}<|{{ .Role }}|>{{ .Content }}{{ if eq .Role "assistant" }}<|endoftext|>'
    "{{ end }}{{ end }}<|assistant|>"
)
"""Our template in the language of Ollama, which knows others than its own by heart alone."""


def _modelfile(name: str, context: int, template: str | None) -> bytes:
    lines = [
        "# Made by minitx export.",
        f"FROM ./{name}",
        f"PARAMETER num_ctx {context}",
        f"PARAMETER temperature {SamplingConfig.temperature}",
        # Ollama's leave out unlikely tokens, and did punish a letter that is said twice.
        *("PARAMETER top_k 0", "PARAMETER top_p 1", "PARAMETER repeat_penalty 1"),
    ]
    if template == TEMPLATE:
        lines += [f'PARAMETER stop "{token}"' for token in TOKENS.values()]
        lines.append(f'TEMPLATE """{_OLLAMA_TEMPLATE}"""')
    elif template is None:
        lines += ["# A text is continued as it stands.", 'TEMPLATE """{{ .Prompt }}"""']
    return "".join(f"{line}\n" for line in lines).encode("utf-8")
