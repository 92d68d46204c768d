"""What `minitx doctor` shows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from minitx.report.terminal.tables import labelled, table
from minitx.report.terminal.units import bytes_


def doctor_view(found: Mapping[str, Any]) -> Iterator[RenderableType]:
    """What there is, what is missing, and what is wrong."""
    packages = found["packages"].items()
    rows = [
        ("minitx", f"{found['minitx']}, Python {found['python']}"),
        ("packages", ", ".join(f"{name} {version or 'missing'}" for name, version in packages)),
        ("system", found["system"]),
        ("processor", f"{found['processor']}, {found['cores']} cores"),
    ]
    if "device" in found:
        others = ", ".join(found["families_built"]) or "none"
        plural = "" if found["threads"] == 1 else "s"
        rows += [
            ("device", ", ".join([found["device"], *found["gpus"]])),
            ("products", f"{found['dtype']}, as this processor or GPU does best"),
            ("engine", f"{found['engine']}: {found['engine_reason']}"),
            ("kernels", f"{found['kernel_family']}, of {others}"),
            ("torch has", f"{found['vectors_of_torch']}, {found['threads']} thread{plural}"),
        ]
    memory = "?" if found["memory_free"] is None else bytes_(found["memory_free"])
    rows.append(("free", f"{memory} of memory, {bytes_(found['disk_free'])} on this disk"))
    if found["variables"]:
        rows.append(("variables", ", ".join(found["variables"])))
    yield labelled(rows)
    missing = [entry for entry in found["extras"] if not entry["installed"]]
    if missing:
        cells = [(entry["brings"], entry["install"]) for entry in missing]
        yield table(["not installed: would bring", "with"], cells)
    for problem in found["problems"]:
        yield Text(problem, "yellow")
    if not found["problems"]:
        yield Text("Nothing is wrong.", "green")
