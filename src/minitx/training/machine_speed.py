"""How fast this machine trains: measured once, and kept in the user's cache directory.

A plan is a function of that speed, so it must not change with what else the machine does just now.
What is measured is the processor's time, not the clock's: time in which others have the processor
does not count. What is kept is used until the processor, the number of threads, the format, the
kernels or torch change, or `minitx train --measure` measures again.
"""

from __future__ import annotations

import contextlib
import math
import platform
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from minitx.compute import Compute, matmul_rate
from minitx.config import ModelConfig
from minitx.engine import choose_engine, kernel_build, loss_function
from minitx.files import cache_directory, json_bytes, read_json, write_atomically
from minitx.model import Transformer

KEPT_IN = "machine.json"

REFERENCE = ModelConfig(
    vocab_size=256, context_length=128, n_layers=2, n_heads=4, n_kv_heads=4, d_model=128, d_ff=384,
    head_dim=32, tie_embeddings=False,
)  # fmt: skip
"""What a pass forward and backward is timed of, ..."""

SEQUENCES = 4
"""... on so many sequences, by each thread."""

ROUND_SECONDS = 0.12
AGREE = 0.03
"""How far the fastest passes of the two best rounds may lie apart, as a part; ..."""

MOST_ROUNDS = 6
"""... else there is another round, up to so many."""

MOST_AT_ONCE = 8
"""Threads that are timed; further ones are taken to be as fast."""

STEP_OF_PASS = 0.75
"""What the planned models reach in a whole step, update included, over that: 0.6 to 0.95."""

STEP_OF_PRODUCTS = 0.4
"""The same on a GPU, over the rate of large matrix products."""

GRID = math.sqrt(2.0)
"""Each rate of the grid that plans are made for, over the one before: at most 19 % off, with which
a plan is as good."""

SAME = 0.15
"""A new measurement that differs by less changes nothing."""

_MOST_KEPT = 50
_PLAUSIBLE = (1e6, 1e18)


@dataclass(frozen=True)
class MachineSpeed:
    """Floating-point operations of training a second, and when that was measured (Unix time)."""

    rate: float
    measured_at: float

    @property
    def planned_rate(self) -> float:
        """The rate to plan with: the nearest of a coarse grid."""
        return float(GRID ** round(math.log(self.rate, GRID)))

    def told(self, now: float) -> str:
        """For the plan's table, for example ``82 G operations a second, measured 3 days ago``."""
        age = max(0.0, now - self.measured_at)
        units = ((86400.0, "day"), (3600.0, "hour"), (60.0, "minute"))
        size, unit = next((each for each in units if age >= each[0]), (1.0, ""))
        n = int(age / size)
        when = f"{n} {unit}{'s' * (n > 1)} ago" if unit else "just now"
        rate = f"trains with about {self.rate / 1e9:.0f} billion operations a second"
        return f"{rate}, measured {when} (again: --measure)"


def kept_speed(compute: Compute, engine: str) -> MachineSpeed | None:
    """What was measured here before with this engine; None if nothing usable was."""
    kept = _read().get(_name(compute, engine))
    try:
        speed = MachineSpeed(float(kept["rate"]), float(kept["measured_at"]))  # type: ignore[index]
    except (TypeError, KeyError, ValueError, OverflowError):
        return None
    is_sound = _PLAUSIBLE[0] <= speed.rate <= _PLAUSIBLE[1] and math.isfinite(speed.measured_at)
    return speed if is_sound else None


def measure_speed(compute: Compute, engine: str) -> MachineSpeed:
    """Measure, in about a second, and keep it where that is possible."""
    before = kept_speed(compute, engine)
    speed = MachineSpeed(_rate(compute, engine), time.time())
    if before is not None and abs(math.log(speed.rate / before.rate)) < math.log1p(SAME):
        speed = MachineSpeed(before.rate, speed.measured_at)
    _keep(_name(compute, engine), speed)
    return speed


def _keep(name: str, speed: MachineSpeed) -> None:
    directory = cache_directory()
    if directory is None:
        return
    others = [(key, value) for key, value in _read().items() if key != name]
    # A directory that can't be written is no error: it is measured again next time.
    with contextlib.suppress(OSError):
        directory.mkdir(parents=True, exist_ok=True)
        speeds = dict([*others[1 - _MOST_KEPT :], (name, asdict(speed))])
        write_atomically(directory / KEPT_IN, json_bytes({"speeds": speeds}))


def _read() -> dict[str, Any]:
    directory = cache_directory()
    try:
        speeds = read_json(directory / KEPT_IN)["speeds"] if directory is not None else {}
    except (OSError, ValueError, KeyError):
        return {}
    return speeds if isinstance(speeds, dict) else {}


def _name(compute: Compute, engine: str) -> str:
    # All that a speed depends on; another one is measured for another.
    if compute.device.type == "cuda":
        processor = torch.cuda.get_device_name(compute.device)
    else:
        processor = processor_name()
    kernels = " ".join(kernel_build())
    return (
        f"{processor}, {compute.device.type}, {torch.get_num_threads()} threads, "
        f"{compute.dtype_name}, {engine} engine, kernels {kernels}, torch {torch.__version__}"
    )


def processor_name() -> str:
    """What the system calls the processor, with its family and model where it tells them."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, UnicodeDecodeError):
            info: dict[str, str] = {}
            for line in Path("/proc/cpuinfo").read_text().splitlines():
                key, _, value = line.partition(":")
                info.setdefault(key.strip(), value.strip())
            if "model name" in info:
                # In a virtual machine the name alone may stand for several generations.
                numbers = f"family {info.get('cpu family', '?')}, model {info.get('model', '?')}"
                return f"{info['model name']} ({numbers})"
    return platform.processor() or platform.machine()


def _rate(compute: Compute, engine: str) -> float:
    if compute.device.type != "cpu":
        return STEP_OF_PRODUCTS * matmul_rate(compute.device, compute.dtype)
    threads = torch.get_num_threads()
    at_once = min(threads, MOST_AT_ONCE)
    models = [Transformer(REFERENCE).train() for _ in range(at_once)]
    choice = choose_engine(models[0], compute, engine).engine
    torch.set_num_threads(1)
    try:
        # All at once, as they train: they share caches, and perhaps a core.
        with ThreadPoolExecutor(at_once) as pool:
            seconds = list(pool.map(lambda model: _pass_seconds(model, compute, choice), models))
    finally:
        torch.set_num_threads(threads)
    operations = REFERENCE.flops_per_token * SEQUENCES * REFERENCE.context_length
    return STEP_OF_PASS * threads / at_once * sum(operations / each for each in seconds)


def _pass_seconds(model: Transformer, compute: Compute, engine: str) -> float:
    torch.set_num_threads(1)
    loss = loss_function(model, compute, engine)
    ids = torch.arange(SEQUENCES * REFERENCE.context_length).reshape(SEQUENCES, -1) % 256

    # Some systems count a thread's time in sixtieths of a second.
    least = 20 * time.get_clock_info("thread_time").resolution

    def seconds() -> float:
        began, spent, n = time.thread_time(), 0.0, 0
        while spent <= least:
            loss(ids, ids).backward()  # type: ignore[no-untyped-call]
            n, spent = n + 1, time.thread_time() - began
        return spent / n

    # The first pays for choosing kernels.
    seconds()
    rounds: list[float] = []
    while len(rounds) < MOST_ROUNDS:
        began, best = time.thread_time(), math.inf
        while time.thread_time() - began < ROUND_SECONDS:
            best = min(best, seconds())
        rounds = sorted([*rounds, best])
        if len(rounds) > 2 and rounds[1] <= (1.0 + AGREE) * rounds[0]:
            break
    return rounds[0]
