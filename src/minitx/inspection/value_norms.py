"""How long what a head fetches is: the norm of each value after the head's output matrix.

Weights alone mislead: a head may look hard at a token whose value is next to nothing. What a head
adds at position i is sum over j of weight[i, j] * W_O v_j; the norm of each summand,
weight[i, j] * |W_O v_j|, is what moves the residual stream (Kobayashi et al. 2020, section 3).
The second factor does not depend on i, so it is kept once for each head and position.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from minitx.model import Trace, Transformer


def value_lengths(model: Transformer, trace: Trace) -> npt.NDArray[np.float32]:
    """Norm of what each head would add if it looked at one position alone.

    Args:
        model: that filled the trace.
        trace: of a batch of one text.

    Returns:
        (n_layers, n_heads, seq) float32.
    """
    from minitx.model import attention_layers

    lengths = []
    for attention, values in zip(attention_layers(model), trace.values, strict=True):
        # (d_model, n_heads * head_dim), columns by head.
        output = attention.output.weight.double()
        by_head = output.view(output.shape[0], model.config.n_heads, -1)
        moved = values[0].double().transpose(0, 1).unsqueeze(-2) @ by_head.permute(1, 2, 0)
        lengths.append(moved.squeeze(-2).norm(dim=-1).T.float().cpu().numpy())
    return np.stack(lengths)
