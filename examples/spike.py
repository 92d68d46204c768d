"""Cause a loss spike, and cure it: runs that differ only in warmup and in clipping.

For five batches in a row every target is the same rare character, as from a damaged stretch of a
text. Their gradients are ten times the usual size, and AdamW, whose averages remember them, takes
several large steps in their direction.

    python examples/spike.py     ten seconds on one core
"""

from __future__ import annotations

import argparse

import torch
from small_training import Batch, small_model, small_text, train_small

from minitx.config import TrainConfig
from minitx.report.curve import curve_lines

DAMAGED = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="fewer steps, for tests")
    given = parser.parse_args()
    steps, bad = (120, 80) if given.quick else (240, 120)
    tokenizer, ids, _ = small_text()

    def spoil(step: int, batch: Batch) -> Batch:
        inputs, targets = batch
        if bad <= step < bad + DAMAGED:
            targets = torch.full_like(targets, tokenizer.vocab_size - 1)
        return inputs, targets

    # The older architecture: without norms on queries and keys it is the easier one to upset.
    shape = small_model(tokenizer.vocab_size, 32, architecture="gpt2")
    before, highest, pictures = {}, {}, []
    print("               loss before   highest   back after   gradient norm    loss at")
    print("warmup  clip    the damage     after        steps   before   there   the end")
    for warmup, clip in ((0, 0.0), (20, 0.0), (20, 1.0), (20, 0.3)):
        config = TrainConfig(
            steps=steps, batch_size=16, learning_rate=0.003, optimizer="adamw", beta2=0.999,
            warmup_steps=warmup, grad_clip=clip, decay="constant", seed=given.seed,
        )  # fmt: skip
        _, curve = train_small(shape, ids, config, spoil)
        losses, norms = curve.losses, curve.gradient_norms
        usual = sum(losses[bad - 20 : bad]) / 20
        after = losses[bad + DAMAGED :]
        back = next((n for n, loss in enumerate(after) if loss < usual + 0.05), len(after))
        before[warmup, clip], highest[warmup, clip] = usual, max(after)
        print(
            f"{warmup:6} {clip or 'off':>5} {usual:13.2f} {max(after):9.2f} {back:12} "
            f"{sum(norms[bad - 20 : bad]) / 20:8.1f} {max(norms[bad : bad + DAMAGED]):7.1f}"
            f" {sum(losses[-20:]) / 20:9.2f}"
        )
        if warmup and clip in (0.0, 0.3):
            title = f"loss by step, {'clipped' if clip else 'not clipped'}"
            pictures += curve_lines([*enumerate(losses)], [], 72, 9, title=title)
    print()
    print("\n".join(line.plain for line in pictures))
    smaller = highest[20, 0.3] - before[20, 0.3] < highest[20, 0.0] - before[20, 0.0]
    print(f"Clipped, the spike is {'smaller' if smaller else 'no smaller'}.")


if __name__ == "__main__":
    main()
