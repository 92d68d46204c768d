"""The twelve shapes of `train_speed.py`: is nanoGPT faster anywhere?"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness import Samples, Table, Target, interleave
from peers import Step, Workload, minitx_step, nanogpt_step

ROUNDS = 5
SECONDS = 10.0
"""For a shape, about: few steps where they are long."""

SHAPES = tuple(
    Workload(f"{layers} x {width}", layers, heads, width, context, batch)
    for layers, heads, width, context, batch in (
        (2, 2, 64, 64, 1),
        (2, 2, 64, 256, 64),
        (2, 4, 128, 1024, 4),
        (2, 8, 512, 64, 12),
        (4, 4, 128, 256, 1),
        (4, 4, 256, 64, 64),
        (4, 2, 64, 512, 8),
        (6, 4, 256, 128, 16),
        (6, 6, 384, 1024, 1),
        (8, 4, 128, 64, 4),
        (8, 2, 64, 1024, 2),
        (8, 8, 512, 256, 4),
    )
)
"""From 2 to 8 layers, 64 to 512 wide, context 64 to 1,024 and batch 1 to 64; each value with others
of both kinds."""

OURS = ("adamw", "muon")

ABOUT_MUON = (
    "Muon's update multiplies matrices of the size of the weights, whatever the batch: where few "
    "tokens meet wide layers, that is most of a step, and AdamW does nothing of the kind."
)


def measure(checkout: Path, shapes: Sequence[Workload] = SHAPES) -> list[dict[str, Samples]]:
    """Steps of each shape with nanoGPT and with ours, by each optimizer."""
    found = []
    for load in shapes:
        steps = {"nanoGPT": nanogpt_step(load, checkout)}
        steps |= {optimizer: minitx_step(load, optimizer) for optimizer in OURS}
        found.append(_timed(steps))
        medians = ", ".join(f"{who} {1e3 * s.median:.1f} ms" for who, s in found[-1].items())
        print(f"{load.name}, {load.batch} x {load.context}: {medians}", file=sys.stderr, flush=True)
        del steps
        gc.collect()
    return found


def _timed(steps: Mapping[str, Step]) -> dict[str, Samples]:
    for step in steps.values():
        step()
    began = time.perf_counter()
    for step in steps.values():
        step()
    one_of_each = time.perf_counter() - began
    # The first step of a turn is not timed.
    per_round = round(SECONDS / ROUNDS / one_of_each) - 1
    return interleave(steps, ROUNDS, min(20, max(1, per_round)), warmup=0)


def table(timed: Sequence[dict[str, Samples]], shapes: Sequence[Workload] = SHAPES) -> Table:
    """How much faster we are at each shape."""
    rows = [
        [
            load.name,
            f"{load.batch} x {load.context}",
            f"{load.tokens:,}",
            f"{1e3 * of_shape['nanoGPT'].median:.1f} ms",
            *(f"{_ratio(of_shape, optimizer):.2f}" for optimizer in OURS),
        ]
        for load, of_shape in zip(shapes, timed, strict=True)
    ]
    return Table(
        "Twelve shapes, our speed over nanoGPT's, by our optimizer; nanoGPT's is AdamW:",
        ["layers x width", "batch x context", "tokens a step", "nanoGPT, a step", *OURS],
        rows,
        labels=3,
    )


def targets(
    timed: Sequence[dict[str, Samples]], shapes: Sequence[Workload] = SHAPES
) -> list[Target]:
    """Whether it is slower at none."""
    found = []
    for optimizer in OURS:
        ratios = [_ratio(of_shape, optimizer) for of_shape in timed]
        slowest = min(range(len(ratios)), key=ratios.__getitem__)
        load = shapes[slowest]
        found.append(
            Target(
                f"{optimizer}: never slower than nanoGPT at twelve shapes",
                f"{ratios[slowest]:.2f} times at {load.name}, {load.batch} x {load.context}",
                ratios[slowest] >= 1.0,
            )
        )
    return found


def _ratio(of_shape: Mapping[str, Samples], optimizer: str) -> float:
    return of_shape["nanoGPT"].median / of_shape[optimizer].median
