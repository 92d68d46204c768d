"""How the public face is typed; mypy checks this file in `test_public.py`, and nothing runs it."""

from collections.abc import Iterator
from pathlib import Path

from torch import Tensor
from typing_extensions import assert_type

import minitx
from minitx.evaluation.holdout_figures import HoldoutReport
from minitx.inspection.attention_maps import AttentionMaps
from minitx.model import Transformer
from minitx.tokenizer import Tokenizer

run = minitx.train("corpus.txt", steps=200, layers=2, d_model=64)
assert_type(run, minitx.FinishedRun)
assert_type(minitx.resume(run.run, steps=400).run, Path)

model = minitx.load()
assert_type(model, minitx.Model)
assert_type(model.generate("To be", max_new_tokens=40, temperature=0.8, stop="\n"), str)
assert_type(model.stream("To be", top_k=None), Iterator[str])
assert_type(model.evaluate(quick=True), HoldoutReport)
assert_type(model.attention("To be"), AttentionMaps)
assert_type(model.logits("To be"), Tensor)
assert_type(model.tokenizer, Tokenizer)
assert_type(model.model, Transformer)
assert_type(model.run, Path | None)
assert_type(model.step, int | None)

# Each comment below is an error of its own where mypy has nothing to say.
model.generate("To be", temperatur=0.8)  # type: ignore[call-arg]
model.generate("To be", top_k="40")  # type: ignore[arg-type]
model.evaluate(quik=True)  # type: ignore[call-arg]
minitx.load(checkpoint="worst")  # type: ignore[arg-type]
minitx.trian("corpus.txt")  # type: ignore[attr-defined]
