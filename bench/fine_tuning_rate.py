"""Which learning rate fits a model that is trained already: losses on the new text and the old.

    python bench/fine_tuning_rate.py OLD.txt [NEW.txt]

NEW is the text that comes with Python if left out.

Trains a model on one text, and then further on another at several fractions of a new model's
rates. The plan takes `TRAINED_RATE` of them (docs/fine_tuning.md).
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from minitx.config import TrainConfig
from minitx.training.logging.metrics_file import read_metrics
from minitx.training.optimizers import OPTIMIZERS
from minitx.workflows.train import TrainRequest, train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path, nargs="?")
    parser.add_argument("--steps", type=int, default=1500, help="on the old text")
    parser.add_argument("--further", type=int, default=150, help="on the new one")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--optimizer", default="adamw")
    asked = parser.parse_args()
    shape = {"n_layers": 4, "n_heads": 4, "d_model": asked.width, "context_length": 128}
    with tempfile.TemporaryDirectory() as place:
        first = train(
            TrainRequest(
                data={"corpus": (str(asked.old),)},
                tokenizer={"kind": "bpe", "vocab_size": 1024},
                model=shape,
                train={"steps": asked.steps, "optimizer": asked.optimizer},
                out=Path(place, "first"),
            ),
            [],
        )
        print(f"old text alone: {first.end.final_holdout_loss:.4f} on its holdout")
        print(f"{'of new rates':>12}  {'new holdout':>11}  {'old holdout':>11}")
        for factor in (1.0, 0.3, 0.1, 0.03, 0.01):
            rates = {
                "learning_rate": OPTIMIZERS.get(asked.optimizer).planned_rate * factor,
                "muon_learning_rate": TrainConfig.muon_learning_rate * factor,
            }
            done = train(
                TrainRequest(
                    data={"corpus": () if asked.new is None else (str(asked.new),)},
                    train={"steps": asked.further, "start": str(first.run), **rates},
                    out=Path(place, f"further-{factor}"),
                ),
                [],
            )
            lines = [r for r in read_metrics(done.run / "metrics.jsonl") if "holdout_loss" in r]
            last = lines[-1]
            print(
                f"{factor:>12g}  {last['holdout_loss']:>11.4f}  {last['old_holdout_loss']:>11.4f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
