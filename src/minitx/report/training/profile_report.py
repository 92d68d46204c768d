"""Where a step's time goes, as a table and as JSON."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from minitx.report.terminal.printable import visible
from minitx.report.training.training_summary import run_path
from minitx.workflows.profile import RunProfile


def profile_report(found: RunProfile) -> Group:
    """Parts of the step with their time, share and rate, and what stands beside them."""
    profile = found.profile
    model = found.config.model
    title = Text().append(visible(run_path(found.run)), "bold")
    title.append(
        f"  ·  {model.n_layers} layers, {model.d_model} wide, context {model.context_length}, "
        f"{profile.tokens:,} tokens a pass  ·  {found.device}, {found.dtype}, "
        f"{found.attention} attention",
        "dim",
    )
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("part", style="bold")
    for name in ("forward", "backward", "all", "share", "GFLOP/s", "of peak"):
        table.add_column(name, justify="right")
    for part in profile.parts:
        rate = part.flops / max(part.seconds, 1e-9)
        table.add_row(
            part.part,
            _milliseconds(part.forward_seconds),
            _milliseconds(part.backward_seconds),
            _milliseconds(part.seconds),
            f"{part.seconds / profile.seconds:.0%}",
            f"{rate / 1e9:,.0f}" if part.flops else "",
            f"{rate / profile.peak_rate:.0%}" if part.flops else "",
        )
    rate = profile.flops / profile.plain_seconds
    table.add_section()
    table.add_row(
        "step", "", "", _milliseconds(profile.seconds), "100%",
        f"{rate / 1e9:,.0f}", f"{rate / profile.peak_rate:.0%}",
    )  # fmt: skip
    lines = [
        f"{1e3 * profile.plain_seconds:.2f} ms a step without the clock at every border: "
        f"{profile.tokens / profile.plain_seconds:,.0f} tokens/s",
        f"{1e3 * profile.overhead_seconds:.2f} ms of it for Python and dispatching operators: "
        "forward and backward over a few tokens",
        f"{profile.peak_rate / 1e9:,.0f} GFLOP/s is the peak: square matrix products in "
        f"{found.dtype}, measured just now",
    ]
    if profile.whole_blocks:
        lines.append(
            "Each block is one compiled call, and so are the last norm, the head and the loss, "
            "which give their gradients on the way forward"
        )
    return Group(title, table, *(Text(line) for line in lines))


def profile_json(found: RunProfile) -> dict[str, Any]:
    """The same numbers for other programs; times in milliseconds."""
    profile = found.profile
    return {
        "run": str(found.run),
        "device": found.device,
        "dtype": found.dtype,
        "attention": found.attention,
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
