"""The page of the library: the entry points that a program or a notebook starts from."""

from __future__ import annotations

import importlib

from config_reference import section

from minitx.config.options import Config

ENTRIES: dict[str, tuple[str, ...]] = {
    "For scripts and notebooks": (
        "minitx.public.train",
        "minitx.public.resume",
        "minitx.public.load",
        "minitx.public.Model",
    ),
    "Train and resume": (
        "minitx.workflows.train.train",
        "minitx.workflows.train.TrainRequest",
        "minitx.workflows.resume.resume",
        "minitx.training.observer.TrainingObserver",
    ),
    "Generate": (
        "minitx.checkpoint.rundir.resolve_checkpoint",
        "minitx.workflows.load.load",
        "minitx.config.SamplingConfig",
    ),
    "Serve": ("minitx.workflows.serve.serve", "minitx.config.ServeRequest"),
    "Measure": (
        "minitx.workflows.evaluate.evaluate_holdout",
        "minitx.config.EvaluationSettings",
        "minitx.evaluation.scoring.score",
    ),
    "Look inside": (
        "minitx.workflows.attend.open_study",
        "minitx.workflows.attend.AttentionStudy",
        "minitx.inspection.mask_check.check_mask",
        "minitx.inspection.head_roles.read_roles",
        "minitx.workflows.diagnose.diagnose",
    ),
    "The model": (
        "minitx.config.ModelConfig",
        "minitx.model.transformer.Transformer",
        "minitx.model.transformer.eager_attention",
        "minitx.model.trace.Trace",
        "minitx.model.kv_cache.KVCache",
    ),
}


def api_reference() -> str:
    """The page, in Markdown; mkdocstrings fills in what each name is.

    Raises:
        ImportError, AttributeError: a name is no longer there.
    """
    parts = ["# Python API", "The words are those of the command line."]
    for title, names in ENTRIES.items():
        parts.append(f"## {title}")
        for name in names:
            module, _, attribute = name.rpartition(".")
            entry = getattr(importlib.import_module(module), attribute)
            is_config = isinstance(entry, type) and issubclass(entry, Config)
            parts.append(section(name, entry) if is_config else f"::: {name}")
    return "\n\n".join(parts) + "\n"
