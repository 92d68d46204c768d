"""What the forms in this room know how to compute: whatever is not on the list runs plain."""

from __future__ import annotations

import torch

from minitx.model import Transformer


def reason_against(model: Transformer) -> str | None:
    """Why only the plain model computes what this model says; None if the fast forms do too."""
    weight = model.embedding.weight
    if weight.device.type != "cpu":
        return f"weights are on {weight.device.type}"
    if weight.dtype != torch.float32:
        return f"weights are {weight.dtype}"
    if weight.is_inference():
        return "weights were made in inference mode, and changes to them are not counted"
    if model.ablated_heads:
        return "heads are ablated"
    return None
