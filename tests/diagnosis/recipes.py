"""Runs that go wrong in a known way, and runs that do not."""

import json
from pydoc_data.topics import topics

from minitx.errors import MinitxError
from minitx.workflows.train import TrainRequest, train

TEXT = "\n".join(topics[name] for name in sorted(topics))[:60_000]
"""English text that comes with Python."""

MODEL = {
    "n_layers": 2, "n_heads": 2, "d_model": 32, "d_ff": 64, "context_length": 32, "dropout": 0.0,
}  # fmt: skip
"""Nothing is left to the plan that changes with what is measured of it."""

TRAIN = {
    "steps": 60, "batch_size": 8, "evaluate_every": 20, "checkpoint_every": 20, "log_every": 10,
    "evaluation_tokens": 2000, "threads": 1, "dtype": "float32", "device": "cpu",
}  # fmt: skip

NOT_CLIPPED = {"optimizer": "adamw", "learning_rate": 3.0, "grad_clip": 0.0, "warmup_steps": 0}
"""A rate a thousand times too high, and nothing that holds it back: losses are tens of nats above
what would count as divergence, whatever the seed."""

OVERFLOWING = {
    "learning_rate": 1e3, "muon_learning_rate": 1e3, "weight_decay": 1e3, "warmup_steps": 0,
    "steps": 12,
}  # fmt: skip
"""Decay times rate is so large that weights grow a millionfold with each step."""

COLLAPSING = {"optimizer": "adamw", "learning_rate": 0.2, "grad_clip": 0.0, "warmup_steps": 0}
"""For an architecture whose queries and keys are not bounded."""

TOO_LOW = {"learning_rate": 1e-7, "muon_learning_rate": 1e-7, "evaluate_every": 4}

HEALTHY = {"steps": 400, "evaluate_every": 20, "checkpoint_every": 200}


def run_recipe(directory, text=TEXT, model=None, tokenizer=None, observers=(), **train_keys):
    """Train, and return the run's directory and the error it ended with, if any."""
    corpus = directory / "text.txt"
    corpus.write_text(text)
    request = TrainRequest(
        data={"corpus": (str(corpus),)},
        tokenizer=tokenizer or {},
        model={**MODEL, **(model or {})},
        train={**TRAIN, **train_keys},
        out=directory / "run",
    )
    try:
        train(request, observers)
    except MinitxError as error:
        return directory / "run", error
    return directory / "run", None


def lines(run, kind=None):
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in found if kind is None or line["kind"] == kind]


def events(run):
    return {event["name"]: event for event in reversed(lines(run, "event"))}
