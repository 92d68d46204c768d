"""Measure what attention costs as the text grows: time, operations, and memory for the weights.

python examples/attention_cost.py                     a minute on one core
python examples/attention_cost.py --png cost.png      with a picture (extra "png")
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from plotting import plot
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from minitx.model.transformer import causal_mask, eager_attention

HEADS, HEAD_DIM = 4, 32


def seconds(work: Callable[[], object], at_least: float) -> float:
    """Shortest of several times: what disturbs a measurement only ever makes it longer."""
    times: list[float] = []
    while sum(times) < at_least or len(times) < 3:
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def vectors(length: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of one text, `(1, heads, length, head_dim)` each."""
    torch.manual_seed(0)
    queries, keys, values = torch.randn(3, 1, HEADS, length, HEAD_DIM)
    return queries, keys, values


def operations(length: int) -> int:
    """Additions and multiplications in the matrix products of one pass, counted by torch."""
    with FlopCounterMode(display=False) as counter:
        eager_attention(*vectors(length), causal_mask(length, length))
    return counter.get_total_flops()


def weight_bytes(length: int) -> int:
    """Memory of the weights of one layer and one text, in float32."""
    _, weights = eager_attention(*vectors(length), causal_mask(length, length))
    return weights.numel() * weights.element_size()


def growth(lengths: list[int], amounts: list[float]) -> float:
    """The power of the length with which an amount grows, over the last two doublings."""
    return math.log(amounts[-1] / amounts[-3]) / math.log(lengths[-1] / lengths[-3])


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--png", type=Path, help="also draw a picture")
    parser.add_argument("--quick", action="store_true", help="shorter texts, for tests")
    given = parser.parse_args()
    lengths = [2**power for power in range(7, 10 if given.quick else 13)]
    patience = 0.01 if given.quick else 0.7

    print("          operations,   memory for          milliseconds")
    print(" tokens      millions   weights, MiB      eager       sdpa")
    counts, sizes, eager, sdpa = [], [], [], []
    for length in lengths:
        given_vectors, mask = vectors(length), causal_mask(length, length)
        counts.append(operations(length))
        sizes.append(weight_bytes(length))
        one = lambda: eager_attention(*given_vectors, mask)  # noqa: B023, E731
        other = lambda: F.scaled_dot_product_attention(*given_vectors, is_causal=True)  # noqa: B023, E731
        eager.append(1000 * seconds(one, patience))
        sdpa.append(1000 * seconds(other, patience))
        print(
            f"{length:7,} {counts[-1] / 1e6:13,.0f} {sizes[-1] / 2**20:14,.2f} "
            f"{eager[-1]:10.2f} {sdpa[-1]:10.2f}"
        )
    print()
    plot(
        list(zip(lengths, eager)),
        list(zip(lengths, sdpa)),
        "milliseconds by tokens",
        ("eager", "sdpa"),
        height=14,
    )
    print("\nOver the last two doublings, with the length to the power of")
    for name, amounts in (
        ("operations", counts), ("memory for weights", sizes), ("time, eager", eager),
        ("time, sdpa", sdpa),
    ):  # fmt: skip
        print(f"  {growth(lengths, amounts):4.2f}  {name}")
    if given.png:
        draw(given.png, lengths, eager, sdpa)


def draw(path: Path, lengths: list[int], eager: list[float], sdpa: list[float]) -> None:
    """A picture of both times, on logarithmic axes, where a power is a straight line."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    axes.loglog(lengths, eager, "o-", label="eager")
    axes.loglog(lengths, sdpa, "s-", label="sdpa")
    square = [eager[-1] * (length / lengths[-1]) ** 2 for length in lengths]
    axes.loglog(lengths, square, ":", color="gray", label="length squared")
    axes.set(xlabel="tokens", ylabel="milliseconds", title="One pass of attention, 4 heads of 32")
    axes.set_xticks(lengths, labels=[f"{length:,}" for length in lengths])
    axes.tick_params(axis="x", which="minor", length=0, labelbottom=False)
    axes.legend()
    figure.savefig(path)
    pyplot.close(figure)


if __name__ == "__main__":
    main()
