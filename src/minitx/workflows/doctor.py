"""What computes on this machine, and what is missing: `minitx doctor` as a library call."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import sys
from collections import defaultdict
from importlib import metadata
from pathlib import Path
from typing import Any

from minitx import __version__
from minitx.checkpoint.rundir import RunDirectory, newest_run
from minitx.config.options import options_of
from minitx.config.run_config import TABLES
from minitx.errors import BadInputError, MinitxError
from minitx.training.memory import free_memory
from minitx.workflows.many_runs import facts

BRINGS = {
    "data": "Parquet, Arrow and Zstandard files",
    "gguf": "minitx export --gguf",
    "mlflow": "--log-to mlflow",
    "onnx": "minitx export --onnx",
    "png": "pictures of attention: minitx attn --png",
    "report": "minitx report",
    "serve": "minitx serve and minitx explore",
    "tensorboard": "--log-to tensorboard",
    "trackio": "--log-to trackio",
    "transformers": "checkpoints in transformers",
    "wandb": "--log-to wandb",
    "zstd": "files compressed with Zstandard",
}
"""What each extra is good for."""

_FOR_BUILDERS = ("docs", "test")
_PACKAGES = ("torch", "numpy", "tokenizers", "safetensors", "rich", "typer")
_LOW = 1e9


def examine() -> dict[str, Any]:
    """What there is, in words and numbers; `problems` has a line for each thing that is wrong."""
    problems: list[str] = []
    disk, memory = shutil.disk_usage(Path.cwd()).free, free_memory()
    found: dict[str, Any] = {
        "minitx": __version__,
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "system": " ".join([platform.system(), platform.machine(), *platform.libc_ver()]).strip(),
        "processor": _processor(),
        "cores": _cores(),
        "memory_free": memory,
        "disk_free": disk,
        "compiler": any(map(shutil.which, ("cc", "clang"))),
        "variables": sorted(name for name in os.environ if name.startswith("MINITX_")),
    }
    try:
        found |= _computing(found["cores"], problems)
    except BadInputError:
        problems.append("MINITX_KERNELS names no kernels that are here: unset it")
    except (ImportError, OSError) as error:
        # Its message may have a path.
        problems.append(f"torch can't be used ({type(error).__name__}): install it again")
    if disk < _LOW:
        problems.append("The disk is nearly full: a checkpoint may not fit. minitx runs prune")
    if memory is not None and memory < _LOW:
        problems.append("Less than 1 GB of memory is free: close other programs")
    return {**found, "extras": _extras(), "problems": problems}


def _computing(cores: int, problems: list[str]) -> dict[str, Any]:
    import torch

    from minitx import engine
    from minitx.compute import choose_compute
    from minitx.model import Transformer
    from minitx.training.planning import planned_shape

    compute = choose_compute("auto", "auto")
    family, version = engine.kernel_build()
    fast = engine.fast_room()
    with torch.device("meta"):
        model = Transformer(planned_shape({"n_layers": 1, "d_model": 64}))
    choice = engine.choose_engine(model.to_empty(device=compute.device), compute)
    threads = torch.get_num_threads()
    if family == "none":
        problems.append(
            "There are no compiled kernels, so training and generation take longer: install a C "
            "compiler (cc), then minitx again"
        )
    if threads < cores // 2:
        problems.append(f"{threads} of {cores} cores are used: look at OMP_NUM_THREADS")
    if compute.device.type == "cpu" and Path("/proc/driver/nvidia/version").exists():
        problems.append("There is a GPU, and this torch can't use it: install torch with CUDA")
    return {
        "device": compute.description,
        "dtype": compute.dtype_name,
        "engine": choice.engine,
        "engine_reason": choice.reason,
        "kernel_family": family,
        "kernel_version": version,
        "families_built": [] if fast is None else list(fast.library.libraries()),
        "vectors_of_torch": torch.backends.cpu.get_cpu_capability(),
        "threads": threads,
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }


def _cores() -> int:
    usable = getattr(os, "sched_getaffinity", None)
    return len(usable(0)) if usable else os.cpu_count() or 1


def _version(package: str) -> str | None:
    with contextlib.suppress(metadata.PackageNotFoundError):
        return metadata.version(package)
    return None


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _extras() -> list[dict[str, Any]]:
    """Extras for users, from the package's own metadata."""
    packages: defaultdict[str, list[str]] = defaultdict(list)
    with contextlib.suppress(metadata.PackageNotFoundError):
        for line in metadata.requires("minitx") or ():
            if match := re.match(r"([\w.-]+).*extra == ['\"]([\w-]+)['\"]", line):
                # The one marker that ours have.
                is_older = "python_version" in line
                packages[match[2]] += [] if is_older and sys.version_info >= (3, 14) else [match[1]]
    return [
        {
            "extra": extra,
            "installed": all(_version(name) for name in names),
            "packages": {name: _version(name) for name in names},
            "brings": BRINGS.get(extra, ", ".join(names)),
            "install": f'pip install "minitx[{extra}]"',
        }
        for extra, names in sorted(packages.items())
        if extra not in _FOR_BUILDERS
    ]


def bug_report(found: dict[str, Any]) -> str:
    """Markdown for an issue: versions, numbers and words of ours; of the newest run, too.

    No path, name, host or text is in it: what a person chose is left out unless it is a number or
    one of a few words that minitx knows.
    """
    extras = [entry["extra"] for entry in found["extras"] if entry["installed"]]
    lines = [_item(key, value) for key, value in {**found, "extras": extras}.items()]
    with contextlib.suppress(MinitxError):
        run = facts(RunDirectory(newest_run()))
        lines += ["", "Newest run:", ""]
        lines += [_item(key, run[key]) for key in ("state", "step", "steps", "events")]
        lines += [_item(key, value) for key, value in _settings(run["config"] or {}).items()]
    return "\n".join(["What happened, and what should have:", "", "...", "", *lines])


def _item(key: str, value: Any) -> str:
    if isinstance(value, dict):
        value = [f"{name} {inner}" for name, inner in value.items()]
    return f"- {key}: {', '.join(value) or 'none' if isinstance(value, list) else value}"


def _settings(config: dict[str, Any]) -> dict[str, Any]:
    return {
        f"{name}.{option.name}": value
        for name, table in TABLES.items()
        for option in options_of(table)
        if isinstance(value := config.get(name, {}).get(option.name), (int, float))
        or value in option.choices
        or (option.name == "optimizer" and value in ("muon", "adamw"))
    }
