"""Cause a loss spike, and cure it: runs that differ only in clipping.

For five batches in a row every target is the same rare character, as from a damaged stretch of a
text. Their gradients are ten times the usual size, and AdamW, whose averages remember them, takes
several large steps in their direction.

    python examples/spike.py     ten seconds on one core
"""

from __future__ import annotations

import argparse

import torch
from plotting import plot
from small_training import Batch, small_model, small_text, train_small

from minitx.config import TrainConfig

DAMAGED = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="fewer steps, for tests")
    given = parser.parse_args()
    steps, bad = (150, 110) if given.quick else (240, 120)
    tokenizer, ids, _ = small_text()

    def spoil(step: int, batch: Batch) -> Batch:
        inputs, targets = batch
        if bad <= step < bad + DAMAGED:
            targets = torch.full_like(targets, int(ids.max()))
        return inputs, targets

    # The older architecture: without norms on queries and keys it is the easier one to upset.
    shape = small_model(tokenizer.vocab_size, 32, architecture="gpt2")
    curves: dict[float, list[float]] = {}
    rise: dict[float, float] = {}
    print("          loss before   highest   steps until   gradient norm    loss at")
    print("    clip   the damage     after       it held   before   there   the end")
    for clip in (0.0, 1.0, 0.3):
        config = TrainConfig(
            steps=steps, batch_size=16, learning_rate=0.003, optimizer="adamw", beta2=0.999,
            grad_clip=clip, decay="constant", seed=given.seed,
        )  # fmt: skip
        _, curve = train_small(shape, ids, config, spoil)
        curves[clip], norms = curve.losses, curve.gradient_norms
        before = sum(curve.losses[bad - 20 : bad]) / 20
        after = curve.losses[bad + DAMAGED :]
        held = next((n for n, loss in enumerate(after) if loss < before + 0.05), len(after))
        rise[clip] = max(after) - before
        print(
            f"{clip or 'none':>8} {before:12.2f} {max(after):9.2f} {held:13} "
            f"{sum(norms[bad - 20 : bad]) / 20:8.1f} {max(norms[bad : bad + DAMAGED]):7.1f}"
            f" {sum(curve.losses[-20:]) / 20:9.2f}"
        )

    # What the damaged batches themselves cost says nothing; the batches after them do.
    good = [step for step in range(steps) if not bad <= step < bad + DAMAGED]
    line = [(step, curves[0.0][step]) for step in good]
    dots = [(step, curves[0.3][step]) for step in good[::6]]
    print()
    names = ("not clipped", "clipped at 0.3")
    plot(line, dots, "loss by step, nats per token", names, height=14)
    print(f"Clipped at 0.3, the spike is {'smaller' if rise[0.3] < rise[0.0] else 'no smaller'}.")


if __name__ == "__main__":
    main()
