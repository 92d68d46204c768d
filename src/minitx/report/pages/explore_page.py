"""The page of `minitx explore`, which asks its own server for all numbers."""

from __future__ import annotations

from minitx.checkpoint.own_model import OwnModel
from minitx.report.pages.templates import render
from minitx.report.terminal.printable import printed_name
from minitx.report.terminal.units import count
from minitx.workflows.explore import Explorer


def explore_page(explorer: Explorer) -> str:
    """The page as one HTML document."""
    study, config = explorer.study, explorer.model.config
    about = (
        f"{study.checkpoint}: {config.family}, {config.n_layers} layers of "
        f"{config.n_heads} heads, {count(config.n_parameters)} parameters, vocabulary of "
        f"{count(config.vocab_size)}, context of {count(config.context_length)} tokens"
    )
    data = {
        "prompt": study.prompt,
        "layers": config.n_layers,
        "heads": config.n_heads,
        "context": config.context_length,
        # Of a model of one's own they are not known.
        "parts": not isinstance(explorer.model, OwnModel),
    }
    name = printed_name(explorer.name)
    return render("explore.html", title=f"Inside {name}", about=about, data=data)
