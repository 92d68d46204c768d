"""What the benchmarks share: interleaved timing, the machine's limits, and how a result is kept.

A result is a JSON file in ``bench/results``, in a directory for each kind of machine, that
`render.py` turns into a section of ``docs/performance.md``.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

RESULTS = Path(__file__).parent / "results"

HELD_TO_AVX2 = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "TORCHINDUCTOR_CPP_MARCH": "x86-64-v3",
}
"""Environment in which torch, its libraries and its compiler use no more than AVX2. With a part of
it they would use a mixture that no machine has."""


@dataclass(frozen=True)
class Samples:
    """Repeated timings of one thing.

    Attributes:
        seconds: in the order taken.
    """

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def best(self) -> float:
        return min(self.seconds)

    @property
    def spread(self) -> float:
        """Half the distance between the quartiles, as a part of the median."""
        if len(self.seconds) < 4:
            return (max(self.seconds) - min(self.seconds)) / 2 / self.median
        low, _, high = statistics.quantiles(self.seconds, n=4)
        return (high - low) / 2 / self.median


@dataclass(frozen=True)
class Table:
    """A table as it is printed and rendered: cells are text already.

    Attributes:
        caption: above it.
        columns: their headings.
        rows: of cells; one without text stands for the one above it, in a label.
        labels: first columns that name a row. By these the page finds the same row of another
            kind of machine.
    """

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    labels: int = 1


@dataclass(frozen=True)
class Target:
    """What was aimed at, what was measured, and whether that is enough."""

    aim: str
    measured: str
    holds: bool


@dataclass(frozen=True)
class Result:
    """What one benchmark found.

    Attributes:
        name: of the JSON file, and its place on the page.
        title: heading of its section.
        about: what is compared and how, in a few sentences.
        tables: shown as they are.
        targets: shown after the tables.
        notes: shown last, one paragraph each.
        raw: numbers behind the tables, for other programs.
    """

    name: str
    title: str
    about: str
    tables: Sequence[Table]
    targets: Sequence[Target] = ()
    notes: Sequence[str] = ()
    raw: Mapping[str, object] = field(default_factory=dict)


def interleave(
    contenders: Mapping[str, Callable[[], object]], rounds: int, per_round: int, warmup: int = 3
) -> dict[str, Samples]:
    """Time several things in turn, so that whatever slows the machine slows all of them.

    Args:
        contenders: name to one step.
        rounds: turns that each takes.
        per_round: steps in a turn; each is timed by itself.
        warmup: untimed steps before the first turn.
    """
    for step in contenders.values():
        for _ in range(warmup):
            step()
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, step in contenders.items():
            # The caches hold another contender's numbers.
            step()
            for _ in range(per_round):
                began = time.perf_counter()
                step()
                seconds[name].append(time.perf_counter() - began)
    return {name: Samples(tuple(values)) for name, values in seconds.items()}


def memory_bandwidth(megabytes: int = 256, repeats: int = 8) -> float:
    """Bytes a second that a copy reads and writes, the best of several."""
    import torch

    source = torch.ones(megabytes * 2**18)
    target = torch.empty_like(source)
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        target.copy_(source)
        best = min(best, time.perf_counter() - start)
    return 2.0 * 4 * source.numel() / best


def held_to_avx2() -> bool:
    """Whether `HELD_TO_AVX2` is the environment.

    Raises:
        SystemExit: a part of it is.
    """
    held = {name: os.environ.get(name) for name in HELD_TO_AVX2}
    if held == HELD_TO_AVX2:
        return True
    if any(held.values()):
        raise SystemExit(
            f"a machine is held to AVX2 by all of these, or by none: {settings(HELD_TO_AVX2)}"
        )
    return False


def kind_of_cpu() -> str:
    """What this process computes with, for example `avx2` or `avx512-bf16`."""
    import torch

    from minitx.compute import choose_dtype

    held_to_avx2()
    kind = torch.backends.cpu.get_cpu_capability().lower()
    bfloat16 = choose_dtype("auto", torch.device("cpu")) == torch.bfloat16
    return f"{kind}-bf16" if bfloat16 else kind


def machine() -> dict[str, str]:
    """The machine and the software, in words."""
    import torch

    from minitx.fast.library import family, library

    capability = torch.backends.cpu.get_cpu_capability()
    if held_to_avx2() and getattr(torch.cpu, "_is_avx512_supported", bool)():
        capability = "AVX512, held to AVX2"
    description = {
        "processor": f"{_processor()}, {torch.get_num_threads()} threads, {capability}",
        "memory": _memory(),
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "torch": torch.__version__,
        "kernels of minitx": "none" if library() is None else family(),
        "GPU": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
    }
    if held_to_avx2():
        description["held to AVX2 by"] = settings(HELD_TO_AVX2)
    return description


def settings(environment: Mapping[str, str]) -> str:
    """An environment as it is typed before a command."""
    return " ".join(f"{name}={value}" for name, value in environment.items())


def table_text(table: Table) -> str:
    """The table with aligned columns."""
    rows = [list(table.columns), *(list(row) for row in table.rows)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(table.columns))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join([table.caption, "", *(line.rstrip() for line in lines), ""])


def result_file(name: str, *, on_gpu: bool = False) -> Path:
    """Where the result of this kind of machine is kept."""
    return RESULTS / ("gpu" if on_gpu else kind_of_cpu()) / f"{name}.json"


def publish(result: Result, out: Path | None = None, *, on_gpu: bool = False) -> Path:
    """Print a result, and write it as JSON.

    Args:
        result: to print.
        out: the file; None for the one in ``bench/results`` that the page is made from.
        on_gpu: whether it is about the GPU of the machine.

    Returns:
        The file written.
    """
    for table in result.tables:
        print(table_text(table))
    for target in result.targets:
        print(f"{'holds' if target.holds else 'SHORT'}: {target.aim}: {target.measured}")
    for note in result.notes:
        print(note)
    path = result_file(result.name, on_gpu=on_gpu) if out is None else out
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {**asdict(result), "command": _command(), "machine": machine()}
    path.write_text(json.dumps(content, indent=1) + "\n")
    print(f"written to {path}")
    return path


def _command() -> str:
    # As a person would type it: the peer's checkout is wherever theirs is.
    words = ["python", f"bench/{Path(sys.argv[0]).name}"]
    skip = False
    for argument in sys.argv[1:]:
        if skip:
            words.append("PATH")
        elif argument.startswith("--llama="):
            words.append("--llama=PATH")
        elif argument == "--out":
            break
        else:
            words.append(shlex.quote(argument))
        skip = argument in ("--nanogpt", "--llama", "--corpus")
    return " ".join(words)


def _processor() -> str:
    from minitx.training.machine_speed import processor_name

    if sys.platform == "darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()
    return processor_name()


def _memory() -> str:
    if sys.platform == "linux":
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemTotal"):
                return f"{int(line.split()[1]) / 2**20:.0f} GiB"
    return "unknown"
