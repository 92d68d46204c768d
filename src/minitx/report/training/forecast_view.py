"""What a run would take and reach, as a table and as JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.console import Group
from rich.text import Text

from minitx.report.terminal.tables import labelled
from minitx.report.terminal.units import bytes_, count, duration
from minitx.workflows.plan import RunForecast


def forecast_report(forecast: RunForecast) -> Group:
    """For people: what is planned, what it takes of each device, how long, and to which loss."""
    model, train = forecast.config.model, forecast.config.train
    work, parts = forecast.work, forecast.memory.to_json()
    where = "this machine" if forecast.device is None else forecast.device.name
    if forecast.device is not None and forecast.device.source:
        where += f" ({forecast.device.source})"
    n = work.processes
    ways = [way for way in ("shard", "recompute") if getattr(work, way)]
    tokens = f"{count(forecast.train_tokens)} train, {count(forecast.holdout_tokens)} holdout"
    shape = (
        f"{model.architecture}, {model.n_layers} layers, {model.n_heads} heads, d_model "
        f"{model.d_model:,}, context {model.context_length:,}: "
        f"{count(model.n_parameters)} parameters"
    )
    peak = parts.pop("peak")
    memory = ", ".join(f"{name} {bytes_(size)}" for name, size in parts.items() if size)
    if forecast.program:
        memory = f"program {bytes_(forecast.program)}, {memory}"
        peak += forecast.program
    free = "unknown" if forecast.available is None else bytes_(forecast.available)
    verdict = {True: "fits", False: "does not fit", None: "may fit"}[forecast.fits]
    step = forecast.step
    sent = ""
    if n > 1 and forecast.device is not None:
        waits = max(0.0, 1 - step.compute_seconds / step.seconds)
        sent = f", {waits:.0%} of it waiting for what is sent"
    lines = [
        ("corpus", f"{tokens} tokens, {model.vocab_size:,} ids"),
        ("model", shape),
        ("where", " ".join([f"{n} x" if n > 1 else "", where, *ways]).strip()),
        ("memory", f"{bytes_(peak)} at the peak of {free}: {verdict}"),
        ("of that", memory),
        ("a token", f"{count(model.flops_per_token)} operations of training"),
        (
            "a step",
            f"{count(forecast.step_tokens)} tokens in {1e3 * step.seconds:,.3g} ms{sent}: "
            f"{count(forecast.step_tokens / step.seconds)} tokens a second",
        ),
        (
            "the run",
            f"{train.steps:,} steps, {count(forecast.tokens)} tokens, "
            f"{forecast.tokens / max(1, forecast.train_tokens):.2g} epochs, "
            f"{duration(forecast.seconds)}",
        ),
        ("loss", _loss(forecast)),
    ]
    if forecast.best_size is not None:
        lines.append(
            ("best size", f"about {count(forecast.best_size)} parameters for the same operations")
        )
    if forecast.available is not None:
        sizes = [
            f"{count(n)} ({bytes_(size)}{'' if size <= forecast.available else ', does not fit'})"
            for n, size in forecast.sizes
        ]
        lines.append(("other sizes", ", ".join(sizes)))
    return Group(labelled(lines), Text("Nothing was trained but short pilots.", style="dim"))


def _loss(forecast: RunForecast) -> str:
    if forecast.loss_now is not None:
        now = f"{forecast.loss_now:.3f} nats per token before the first step"
        return f"{now}; of a model that is trained already none is predicted"
    if forecast.loss is None:
        return "unknown: no time for pilots, and no earlier runs on this text"
    loss = forecast.loss
    return (
        f"{loss.loss:.3f} nats per token, {loss.low:.3f} to {loss.high:.3f} with 80 % (from "
        f"{forecast.pilots} pilots and {forecast.earlier} earlier runs)"
    )


def forecast_json(forecast: RunForecast) -> dict[str, Any]:
    """The same for programs: bytes, seconds, operations, nats."""
    values = asdict(forecast)
    config = values.pop("config")
    return {
        "model": config["model"],
        "tokenizer": config["tokenizer"],
        "train": config["train"],
        "parameters": forecast.config.model.n_parameters,
        "operations_per_token": forecast.config.model.flops_per_token,
        **values,
        "sizes": [{"parameters": n, "peak": peak} for n, peak in forecast.sizes],
        "step_tokens": forecast.step_tokens,
        "steps": forecast.config.train.steps,
        "tokens": forecast.tokens,
        "epochs": forecast.tokens / max(1, forecast.train_tokens),
        "tokens_per_second": forecast.step_tokens / forecast.step.seconds,
        "fits": forecast.fits,
    }
