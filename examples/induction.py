"""Watch induction heads appear: train a small model on texts that repeat themselves.

Every text is random tokens, and after a random number of them (a quarter to a half of the text) the
same ones again. The first time nothing can be foretold: the loss stays at ln(vocabulary). The
second time everything can, by a head that finds the token's earlier occurrence and looks at what
followed it.

    python examples/induction.py                 half a minute on one core
    python examples/induction.py --layers 1      one layer can't: it takes two heads in a row
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np
import torch
from plotting import plot
from small_training import small_model
from torch.nn import functional as F

from minitx.config import TrainConfig
from minitx.inspection.probe_texts import RepeatProbe, repeat_probe
from minitx.inspection.roles import LayerPatterns
from minitx.inspection.roles.looked_at import induction
from minitx.model import Trace, Transformer
from minitx.training.optimizers import make_optimizer
from minitx.training.schedule import rate_factor

RISEN = 0.5
"""An induction score from which on a head is said to do it: half of its attention."""


def repeating(rng: np.random.Generator, rows: int, length: int, vocab_size: int) -> np.ndarray:
    """Texts that repeat after a number of tokens that differs from row to row."""
    periods = rng.integers(length // 4, length // 2 + 1, size=(rows, 1))
    tokens = rng.integers(vocab_size, size=(rows, length))
    return np.take_along_axis(tokens, np.arange(length) % periods, axis=1)


@dataclass(frozen=True)
class Seen:
    """What was seen at one step; losses in nats, scores of shape (layers, heads)."""

    step: int
    repeated: float
    control: float
    induction: np.ndarray
    previous: np.ndarray


@torch.no_grad()
def look(model: Transformer, probe: RepeatProbe, step: int) -> Seen:
    """Losses where tokens repeat and where they do not, and what each head looks at.

    The induction score of a head is its mean weight on the token after the earlier occurrence; its
    previous-token score, the mean weight on the token before.
    """
    losses, weights = [], []
    for ids in (torch.from_numpy(probe.repeated), torch.from_numpy(probe.control)):
        trace = Trace()
        logits = model(ids, trace=trace)[:, probe.period : -1]
        targets = ids[:, probe.period + 1 :]
        losses.append(float(F.cross_entropy(logits.flatten(0, 1), targets.flatten())))
        weights.append([layer.numpy() for layer in trace.attention])
    found = []
    for repeated, control in zip(*weights):
        scores = induction(LayerPatterns(repeated, control))
        assert scores is not None
        found.append(scores[0])
    before = [np.diagonal(layer, -1, axis1=2, axis2=3).mean(axis=(0, 2)) for layer in weights[1]]
    return Seen(step, *losses, np.stack(found), np.stack(before))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="a smaller model, for tests")
    given = parser.parse_args()
    length, heads, steps = (32, 4, 180) if given.quick else (64, 4, given.steps)

    torch.manual_seed(given.seed)
    rng = np.random.default_rng(given.seed)
    shape = small_model(
        length, length, n_layers=given.layers, n_heads=heads, n_kv_heads=heads, d_model=16 * heads,
        d_ff=32 * heads,
    )  # fmt: skip
    model = Transformer(shape)
    config = TrainConfig(steps=steps, batch_size=32, learning_rate=0.03, decay="constant")
    optimizer = make_optimizer(model, config)
    probe = repeat_probe(shape.vocab_size, length, 16, seed=1)
    assert probe is not None

    print("              loss where tokens        strongest score of each layer")
    print("  step     repeat   do not repeat    induction      previous token")
    seen: list[Seen] = []
    for step in range(steps + 1):
        if step % (steps // 20) == 0:
            now = look(model, probe, step)
            seen.append(now)
            scores = [
                "  ".join(f"{score:.2f}" for score in layers.max(axis=1))
                for layers in (now.induction, now.previous)
            ]
            print(
                f"{step:6,} {now.repeated:10.2f} {now.control:15.2f}    {scores[0]:14} {scores[1]}"
            )
        ids = torch.from_numpy(repeating(rng, config.batch_size, length + 1, shape.vocab_size))
        model.loss(ids[:, :-1], ids[:, 1:]).backward()
        optimizer.step(rate_factor(config, step, steps))

    best = int(seen[-1].induction.argmax())
    layer, head = divmod(best, heads)
    print()
    plot(
        [(one.step, one.repeated) for one in seen],
        [(one.step, one.control) for one in seen],
        "loss by step, nats",
        ("repeated", "not repeated"),
        height=10,
    )
    plot(
        [(one.step, float(one.induction[layer, head])) for one in seen],
        [(one.step, float(one.previous[0].max())) for one in seen],
        "scores by step",
        (f"induction, layer {layer}", "previous token, layer 0"),
        height=10,
    )
    risen = [one.step for one in seen if one.induction[layer, head] > RISEN]
    if risen:
        print(f"Layer {layer}, head {head} became an induction head before step {risen[0]:,}.")
    else:
        print("No head became an induction head.")


if __name__ == "__main__":
    main()
