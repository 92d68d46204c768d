"""What a checkpoint costs the steps beside it, at the shape of 10.7 M parameters.

    python bench/checkpoint_cost.py

Trains with a checkpoint every few steps. The cost of one is the time by which the steps from it to
the next take longer than as many undisturbed ones (the median of steps that begin when no write
is under way). The ratio spreads that over the steps between checkpoints that `minitx train` plans.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from minitx.training.observer import TrainingObserver
from minitx.workflows.train import TrainRequest, train

SHAPE = {"n_layers": 6, "n_heads": 6, "d_model": 384, "context_length": 256}


class Clock(TrainingObserver):
    def __init__(self):
        self.ends, self.saved = [], []

    def on_step(self, report):
        self.ends.append((report.step, time.perf_counter()))

    def on_checkpoint(self, step, directory):
        self.saved.append((step, time.perf_counter()))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--every", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=8)
    options = parser.parse_args()
    text = "".join(f"{n} green bottles hanging on the wall, {n * n}\n" for n in range(20_000))
    clock = Clock()
    with tempfile.TemporaryDirectory() as directory:
        corpus = Path(directory) / "corpus.txt"
        corpus.write_text(text)
        keys = {
            "steps": options.steps,
            "batch_size": options.batch_size,
            "checkpoint_every": options.every,
            "evaluate_every": options.steps,
            "evaluation_tokens": 2_000,
            "log_every": 1,
        }
        request = TrainRequest(
            data={"corpus": (str(corpus),), "holdout_fraction": 0.01},
            model=SHAPE,
            train=keys,
            out=Path(directory) / "run",
        )
        train(request, [clock])
    times = {b[0]: b[1] - a[1] for a, b in zip(clock.ends, clock.ends[1:], strict=False)}
    # The first steps allot memory; the last is followed by the evaluation.
    starts = range(options.every, options.steps - options.every, options.every)
    after = [[times[start + 1 + i] for i in range(options.every)] for start in starts]
    step = statistics.median(time for one in after for time in one[options.every // 2 :])
    cost = statistics.median(sum(one) - len(one) * step for one in after)
    # As `minitx train` plans it: twenty in a run of five minutes.
    planned = max(1, int(300 / step) // 20)
    print(f"step                  {1e3 * step:8.1f} ms")
    print(f"cost of a checkpoint  {1e3 * cost:8.1f} ms")
    for every in (options.every, planned):
        print(
            f"one in {every:3} steps      {cost / every / step:8.2%} of the step time (limit 2 %)"
        )


if __name__ == "__main__":
    main()
