"""What accelerators can do, as their makers publish it, for plans of a machine elsewhere."""

from __future__ import annotations

from dataclasses import dataclass, replace

from minitx.errors import BadInputError

NETWORK = 400e9
"""Bytes a second from a machine to others, over all its adapters at once: eight of 400 Gbit/s, as
in NVIDIA's DGX H100 and H200. Rings through all of them run beside each other."""

IN_A_MACHINE = 8
"""Devices that are linked directly."""

EFFICIENCY = 0.38
"""Part of the published rate that a training pass reaches: measured for 124 M parameters and 32,768
tokens on an H100, 69 ms a pass (docs/plan.md). Elsewhere it is much the same: 0.33 to 0.39 for
Llama 3.1 8B on 8 and 128 H100 (torchtitan's benchmarks of December 2024)."""


@dataclass(frozen=True)
class Device:
    """One device of a kind.

    Attributes:
        memory: bytes.
        rate: floating-point operations a second of dense matrix products in 16 bits.
        link: bytes a second that it sends to another in the same machine.
        source: where the maker says so; empty for what a person gave.
    """

    name: str
    memory: float
    rate: float
    link: float
    source: str = ""

    @property
    def trains_at(self) -> float:
        """Operations of training a second that are planned with."""
        return EFFICIENCY * self.rate


_GB, _TERA = 1e9, 1e12
DEVICES = {
    device.name: device
    for device in (
        Device("t4", 16 * _GB, 65 * _TERA, 16 * _GB, "NVIDIA T4 data sheet"),
        Device("v100", 32 * _GB, 125 * _TERA, 150 * _GB, "NVIDIA V100 data sheet, SXM2"),
        Device("a10", 24 * _GB, 125 * _TERA, 32 * _GB, "NVIDIA A10 data sheet"),
        Device("l4", 24 * _GB, 121 * _TERA, 32 * _GB, "NVIDIA L4 data sheet"),
        Device("l40s", 48 * _GB, 362 * _TERA, 32 * _GB, "NVIDIA L40S data sheet"),
        Device("a100", 80 * _GB, 312 * _TERA, 300 * _GB, "NVIDIA A100 data sheet, SXM"),
        Device("rtx-3090", 24 * _GB, 71 * _TERA, 32 * _GB, "NVIDIA Ampere GA102 whitepaper"),
        Device("rtx-4090", 24 * _GB, 165 * _TERA, 32 * _GB, "NVIDIA Ada whitepaper"),
        Device("h100", 80 * _GB, 989 * _TERA, 450 * _GB, "NVIDIA H100 data sheet, SXM"),
        Device("h200", 141 * _GB, 989 * _TERA, 450 * _GB, "NVIDIA H200 data sheet, SXM"),
        Device("b200", 180 * _GB, 2250 * _TERA, 900 * _GB, "NVIDIA DGX B200 data sheet"),
    )
}
"""Rates are dense, half of what a sheet gives with sparsity; links are one of NVLink's two
directions, or PCIe."""


def device_named(name: str, memory: float | None = None, tflops: float | None = None) -> Device:
    """A device of the table, or any with so many GB of memory and 10^12 operations a second.

    Raises:
        BadInputError: it is not in the table, and one of the two is not given.
    """
    device = DEVICES.get(name.lower())
    if device is None and (memory is None or tflops is None):
        raise BadInputError(
            f"there are no figures of a device {name}",
            f"Choose one of {', '.join(DEVICES)}, or give --memory and --tflops",
        )
    device = device or Device(name, 0.0, 0.0, 32 * _GB)
    if memory is not None:
        device = replace(device, memory=memory * _GB, source="")
    return device if tflops is None else replace(device, rate=tflops * _TERA, source="")
