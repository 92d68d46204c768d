"""Train with rotary and with learned positions, and read on past the trained length.

python examples/past_the_length.py     a minute on one core
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import torch
from small_training import small_model, small_text, train_small

from minitx.config import TrainConfig
from minitx.model import Transformer

TRAINED, READ = 32, 64


def lengthened(model: Transformer, length: int) -> Transformer:
    """The same weights in a model with a longer context.

    Rotary positions have no weights: the angles of further positions are simply computed. Learned
    positions are a table; its further rows are as drawn at the start, for nothing trained them.
    """
    torch.manual_seed(1)
    longer = Transformer(replace(model.config, context_length=length))
    for name, parameter in longer.state_dict().items():
        trained = model.state_dict()[name]
        parameter[: len(trained)] = trained
    return longer.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer steps, for tests")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    steps = 160 if given.quick else 1000
    tokenizer, train_ids, holdout_ids = small_text()
    windows = torch.from_numpy(holdout_ids).long().unfold(0, READ + 1, READ)
    inputs, targets = windows[:, :-1], windows[:, 1:]

    parts = [(0, 8), (8, 16), (16, 32), (32, 40), (40, 48), (48, 64)]
    print("holdout loss at positions   " + "  ".join(f"{a:2}-{b - 1:2}" for a, b in parts))
    worse: dict[str, float] = {}
    for architecture, positions in (("qwen3", "rotary"), ("gpt2", "learned")):
        shape = small_model(tokenizer.vocab_size, TRAINED, architecture=architecture)
        config = TrainConfig(steps=steps, batch_size=16, learning_rate=0.01, seed=given.seed)
        model, _ = train_small(shape, train_ids, config)
        with torch.no_grad():
            losses = lengthened(model, READ).token_losses(inputs, targets).mean(0)
        by_part = "  ".join(f"{losses[a:b].mean():5.2f}" for a, b in parts)
        print(f"{positions:8} (trained to 32)   {by_part}")
        worse[positions] = float(losses[48:].mean() - losses[:32].mean())
    print()
    for positions, difference in worse.items():
        change = "rises" if difference > 0 else "does not rise"
        print(f"With {positions} positions the loss {change} past the trained length.")


if __name__ == "__main__":
    main()
