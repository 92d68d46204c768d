"""A fresh process opens a run and gets, to the bit, the logits of the model that was trained."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from small_runs import VERSES

from minitx.workflows import run_session
from minitx.workflows.load import load
from minitx.workflows.train import TrainRequest, train

PROMPT = "green bottles hanging on the wall"
FRESH = """
import json, sys
import minitx
runs, prompt = json.loads(sys.argv[1])
for run in runs:
    logits = minitx.load(run, checkpoint="last", device="cpu").logits(prompt)
    print(json.dumps(logits.tolist()))
"""


@st.composite
def requests(draw):
    gpt2 = draw(st.booleans())
    heads = draw(st.sampled_from([1, 2, 4]))
    width = draw(st.sampled_from([2, 4, 6, 16]))
    shape = {
        "architecture": "gpt2" if gpt2 else "qwen3", "n_layers": draw(st.integers(1, 3)),
        "n_heads": heads, "d_model": heads * width if gpt2 else draw(st.sampled_from([6, 16, 33])),
        "head_dim": width, "d_ff": draw(st.sampled_from([1, 5, 32])),
        "n_kv_heads": heads if gpt2 else draw(st.sampled_from([n for n in (1, 2) if n <= heads])),
        "context_length": draw(st.sampled_from([60, 64])), "tie_embeddings": draw(st.booleans()),
        "dropout": draw(st.sampled_from([0.0, 0.3])),
    }  # fmt: skip
    how = {
        "steps": draw(st.integers(1, 3)), "batch_size": 2, "threads": 1, "device": "cpu",
        "dtype": draw(st.sampled_from(["float32", "bfloat16"])),
        "optimizer": draw(st.sampled_from(["muon", "adamw"])),
        "engine": draw(st.sampled_from(["auto", "plain"])), "learning_rate": 0.05,
    }  # fmt: skip
    kind = draw(st.sampled_from(["char", "bpe", "word"]))
    size = {"char": 0, "bpe": 270, "word": 40}[kind]
    return shape, how, {"kind": kind, "vocab_size": size}


def trained(directory, shape, how, tokenizer):
    """A run, and the logits of its model in the process that trained it."""
    text = directory / "verses.txt"
    text.write_text(VERSES)
    models = []

    class Watched(run_session.Trainer):
        def __init__(self, **parts):
            models.append(parts["model"])
            super().__init__(**parts)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_session, "Trainer", Watched)
        run = train(
            TrainRequest(
                data={"corpus": (str(text),)}, tokenizer=tokenizer, model=shape, train=how,
                out=directory / "run",
            ),
            [],
        ).run  # fmt: skip
    ids = load(run, "last", "cpu").tokenizer.encode(PROMPT)
    with torch.no_grad():
        return run, models[0].eval()(torch.from_numpy(ids).long()[None])[0].numpy()


# Not made smaller when it fails: each try trains eight runs.
@settings(
    max_examples=1, deadline=None, suppress_health_check=list(HealthCheck),
    phases=[Phase.generate],
)  # fmt: skip
@given(st.lists(requests(), min_size=8, max_size=8))
def test_a_fresh_process_has_the_model_that_was_trained(tmp_path_factory, drawn):
    runs, expected = zip(
        *(trained(tmp_path_factory.mktemp("run"), *request) for request in drawn), strict=True
    )
    done = subprocess.run(
        [sys.executable, "-c", FRESH, json.dumps([list(map(str, runs)), PROMPT])],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for request, line, logits in zip(drawn, done.stdout.splitlines(), expected, strict=True):
        np.testing.assert_array_equal(np.array(json.loads(line), np.float32), logits, str(request))
