"""Train the same small model twice: with the causal mask, and with one that leaks one token.

python examples/leaky_mask.py     half a minute on one core; leaves runs/honest and runs/leaky
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from minitx.checkpoint.huggingface import load_model
from minitx.checkpoint.rundir import RunDirectory, resolve_checkpoint
from minitx.config import SamplingConfig
from minitx.corpus.sources import default_text
from minitx.evaluation.scoring import score
from minitx.generation import generate
from minitx.inspection.mask_check import check_mask
from minitx.model import transformer
from minitx.workflows.train import TrainRequest, train


def leaky(queries: int, keys: int, device: torch.device | None = None) -> torch.Tensor:
    """Off by one: each position may also look at the next, which is what it should foretell."""
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries + 1)


@contextmanager
def mask(function: object) -> Iterator[None]:
    """Let all models use another mask meanwhile."""
    honest = transformer.causal_mask
    transformer.causal_mask = function
    try:
        yield
    finally:
        transformer.causal_mask = honest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer steps, for tests")
    steps, characters, width = (
        (100, 30_000, 32) if parser.parse_args().quick else (600, 150_000, 64)
    )

    for run in (Path("runs/honest"), Path("runs/leaky")):
        if run.exists():
            sys.exit(f"{run} is there already. Remove it to train it anew")
    Path("part.txt").write_text(default_text()[:characters])
    rows: dict[str, list[float]] = {}
    samples = {}
    for name, used in (("honest", transformer.causal_mask), ("leaky", leaky)):
        run = Path("runs") / name
        request = TrainRequest(
            data={"corpus": ("part.txt",)},
            tokenizer={"kind": "char"},
            model={"n_layers": 2, "n_heads": 4, "d_model": width, "context_length": 64},
            train={"steps": steps, "evaluate_every": steps // 3},
            out=run,
        )
        with mask(used):
            end = train(request, []).end
            loaded = load_model(resolve_checkpoint(run, "last"))
            checked = check_mask(loaded.model)
        honest = load_model(resolve_checkpoint(run, "last"))
        ids = RunDirectory.open(run).data / "holdout.txt"
        holdout = honest.tokenizer.encode(ids.read_text(), unknown="replace")
        rows[name] = [end.final_holdout_loss, score(honest.model, holdout).loss]
        samples[name] = generate(
            honest.model, honest.tokenizer, ["The "], SamplingConfig(max_new_tokens=120)
        )[0].text
        leaks = [path.leak for path in checked.paths if path.leak]
        found = f"it leaks: {leaks[0].place}" if leaks else "no logit moved"
        print(f"{name} mask, checked with minitx.inspection.mask_check: {found}")

    print()
    print("                                  honest   leaky")
    for index, what in enumerate(("holdout loss, measured as trained", "holdout loss, honestly")):
        print(f"{what:34} {rows['honest'][index]:6.3f}  {rows['leaky'][index]:6.3f}")
    better = ["better" if leaky < honest else "worse" for honest, leaky in zip(*rows.values())]
    print(f"\nAs trained, the leaky one looks {better[0]}; honestly, it is {better[1]}.")
    for name, text in samples.items():
        print(f"\nThe {name} one continues:")
        print("\n".join(f"> {line}" for line in f"The {text}".splitlines()))


if __name__ == "__main__":
    main()
