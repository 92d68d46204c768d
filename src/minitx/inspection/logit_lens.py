"""What each layer would say next: the residual stream read with the model's own output head.

The stream after any block has the shape of the last one, so the final norm and the output head can
be put on it early (nostalgebraist 2020, "interpreting GPT: the logit lens"). The reading of the
last layer is the model's own answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from minitx.checkpoint.own_model import refuse_own
from minitx.evaluation.arrays import Float32Array, IntArray
from minitx.inspection.attention_maps import traced
from minitx.model import Transformer, evaluating
from minitx.shown import Shown


@dataclass(frozen=True, eq=False)
class LogitLens(Shown):
    """Readings of the residual stream: at the embedding (0), then after each layer.

    Attributes:
        top_ids: (n_layers + 1, seq, k) the likeliest next tokens, the likeliest first.
        top_probabilities: (n_layers + 1, seq, k) their probabilities.
        next_probability: (n_layers + 1, seq - 1) probability of the token that does follow.
        loss: (n_layers + 1,) mean loss on the text at each reading, nats per token; empty for a
            text of one token.
        tokens: text of each token; empty if it is not known.
        pieces: text of each id in `top_ids`; empty if it is not known.
    """

    top_ids: IntArray
    top_probabilities: Float32Array
    next_probability: Float32Array
    loss: Float32Array
    tokens: tuple[str, ...] = ()
    pieces: dict[int, str] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """What each reading is called: `embedding`, `layer 0`, `layer 1`, ..."""
        return ("embedding", *(f"layer {i}" for i in range(len(self.top_ids) - 1)))

    def piece(self, token: int) -> str:
        """Text of an id; its number where that is not known."""
        return self.pieces.get(token, str(token))

    def named(self, ids: IntArray, piece: Callable[[int], str]) -> LogitLens:
        """The same readings of the text `ids`, (seq,), with the `piece` of text of every id."""
        return replace(
            self,
            tokens=tuple(piece(int(i)) for i in ids),
            pieces={int(i): piece(int(i)) for i in np.unique(self.top_ids)},
        )


def read_logit_lens(model: Transformer, ids: IntArray, k: int = 5) -> LogitLens:
    """Read the residual stream of one text, (seq,) ids, after each layer.

    The `k` likeliest tokens are kept, or the whole vocabulary. The model is left as it was.
    """
    refuse_own(model, "the logit lens")
    return lens_of(model, ids, traced(model, ids[None]).residual, k)


def lens_of(model: Transformer, ids: IntArray, streams: Sequence[Tensor], k: int) -> LogitLens:
    """The same of streams that were kept, `(1, seq, d_model)` at each reading."""
    text = torch.from_numpy(ids.astype(np.int64)).to(model.embedding.weight.device)
    k = min(k, model.config.vocab_size)
    top_ids, top, following, losses = [], [], [], []
    with torch.inference_mode(), evaluating(model):
        for stream in streams:
            log_probabilities = model.unembed(stream)[0].float().log_softmax(dim=-1)
            best = log_probabilities.topk(k, dim=-1)
            top_ids.append(best.indices.cpu().numpy())
            top.append(best.values.exp().cpu().numpy())
            right = log_probabilities[:-1].gather(1, text[1:, None])[:, 0]
            following.append(right.exp().cpu().numpy())
            if len(ids) > 1:
                losses.append(-float(right.mean()))
    return LogitLens(
        np.stack(top_ids).astype(np.int64),
        np.stack(top).astype(np.float32),
        np.stack(following).astype(np.float32),
        np.asarray(losses, dtype=np.float32),
    )
