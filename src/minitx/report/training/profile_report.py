"""Where a step's time goes, as a table and as JSON."""

from __future__ import annotations

from typing import Any

from rich.console import Group
from rich.text import Text

from minitx.report.terminal.printable import run_path
from minitx.report.terminal.tables import table
from minitx.workflows.profile import RunProfile


def profile_report(measured: RunProfile) -> Group:
    """Parts of the step with their time, share and rate, and what stands beside them."""
    profile = measured.profile
    model = measured.config.model
    title = Text().append(run_path(measured.run), "bold")
    title.append(
        f"  ·  {model.n_layers} layers, {model.d_model} wide, context {model.context_length}, "
        f"{profile.tokens:,} tokens a pass  ·  {measured.device}, {measured.dtype}, "
        f"{profile.engine} engine",
        "dim",
    )

    def rates(flops: float, seconds: float) -> tuple[str, str]:
        if not flops:
            return "", ""
        rate = flops / max(seconds, 1e-9)
        return f"{rate / 1e9:,.0f}", f"{rate / profile.peak_rate:.0%}"

    names = ("part", "forward", "backward", "all", "share", "GFLOP/s", "of peak")
    parts = table(
        names,
        [
            (
                Text(part.part, "bold"),
                _milliseconds(part.forward_seconds),
                _milliseconds(part.backward_seconds),
                _milliseconds(part.seconds),
                f"{part.seconds / profile.seconds:.0%}",
                *rates(part.flops, part.seconds),
            )
            for part in profile.parts
        ],
        numbers=range(1, len(names)),
    )
    parts.add_section()
    step_rates = rates(profile.flops, profile.plain_seconds)
    parts.add_row(Text("step", "bold"), "", "", _milliseconds(profile.seconds), "100%", *step_rates)
    lines = [
        f"{1e3 * profile.plain_seconds:.2f} ms per step when parts are not timed: "
        f"{profile.tokens / profile.plain_seconds:,.0f} tokens/s",
        f"{1e3 * profile.overhead_seconds:.2f} ms of that is Python and operator dispatch, "
        "measured by forward and backward over a few tokens",
        f"{profile.peak_rate / 1e9:,.0f} GFLOP/s is the peak of square matrix products in "
        f"{measured.dtype}, measured now",
    ]
    if profile.whole_blocks:
        lines.append(
            "All blocks are one compiled call, and so are the last norm, the head and the loss, "
            "which give their gradients on the way forward"
        )
    return Group(title, parts, *(Text(line) for line in lines))


def profile_json(measured: RunProfile) -> dict[str, Any]:
    """The same numbers for other programs; times in milliseconds."""
    profile = measured.profile
    return {
        "run": str(measured.run),
        "device": measured.device,
        "dtype": measured.dtype,
        "engine": profile.engine,
        "steps": profile.steps,
        "whole_blocks": profile.whole_blocks,
        "tokens_per_pass": profile.tokens,
        "parts": [
            {
                "part": part.part,
                "forward_milliseconds": 1e3 * part.forward_seconds,
                "backward_milliseconds": 1e3 * part.backward_seconds,
                "milliseconds": 1e3 * part.seconds,
                "flops": part.flops,
            }
            for part in profile.parts
        ],
        "milliseconds": 1e3 * profile.seconds,
        "milliseconds_unprofiled": 1e3 * profile.plain_seconds,
        "milliseconds_overhead": 1e3 * profile.overhead_seconds,
        "tokens_per_second": profile.tokens / profile.plain_seconds,
        "flops": profile.flops,
        "flops_per_second": profile.flops / profile.plain_seconds,
        "peak_flops_per_second": profile.peak_rate,
    }


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.2f} ms" if seconds else ""
