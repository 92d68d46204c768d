"""What warmup is worth: two runs of a deeper model that differ in their first 50 steps alone.

python examples/warmup.py     ten seconds on one core
"""

from __future__ import annotations

import argparse

from plotting import plot
from small_training import small_model, small_text, train_small

from minitx.config import TrainConfig


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="fewer steps, for tests")
    given = parser.parse_args()
    steps = 110 if given.quick else 240
    tokenizer, ids, _ = small_text()

    shape = small_model(tokenizer.vocab_size, 32, architecture="gpt2", n_layers=6)
    ends: dict[int, float] = {}
    curves: dict[int, list[float]] = {}
    for warmup in (0, 50):
        config = TrainConfig(
            steps=steps, batch_size=16, learning_rate=0.01, optimizer="adamw",
            warmup_steps=warmup, seed=given.seed,
        )  # fmt: skip
        _, curve = train_small(shape, ids, config)
        curves[warmup] = curve.losses
        ends[warmup] = sum(curve.losses[-20:]) / 20
        name = f"warmup of {warmup} steps" if warmup else "no warmup"
        print(f"{name:18} loss at step 10 {curve.losses[9]:.2f}, at the end {ends[warmup]:.2f}")
    print()
    dots = [*enumerate(curves[50])][::6]
    line = [*enumerate(curves[0])]
    plot(line, dots, "loss by step, nats per token", ("no warmup", "warmup"))
    better = "lower" if ends[50] < ends[0] else "no lower"
    print(f"With warmup the loss is higher at first, and {better} in the end.")


if __name__ == "__main__":
    main()
