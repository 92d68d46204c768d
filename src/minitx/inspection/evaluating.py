"""Look at a model without changing it: dropout off, its modes put back afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from minitx.config.train_config import AttentionForm
from minitx.model import Transformer


@contextmanager
def evaluating(model: Transformer, attention_form: AttentionForm | None = None) -> Iterator[None]:
    """Switch dropout off, every head on and (if given) a form of attention on, for a while."""
    was_training, form, ablated = model.training, model.attention_form, set(model.ablated_heads)
    model.eval()
    model.ablated_heads.clear()
    if attention_form is not None:
        model.attention_form = attention_form
    try:
        yield
    finally:
        model.train(was_training)
        model.attention_form = form
        model.ablated_heads.clear()
        model.ablated_heads.update(ablated)
