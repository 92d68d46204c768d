"""Who looks at whom: the attention weights of every layer and head for one text."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from minitx.checkpoint.own_model import OwnModel
from minitx.config import ModelConfig
from minitx.errors import BadInputError
from minitx.evaluation.arrays import ByteArray, Float32Array, IdArray, IntArray
from minitx.model import Trace, Transformer, attention_layers, evaluating
from minitx.shown import Shown
from minitx.tokenizer import Tokenizer


@dataclass(frozen=True, eq=False)
class AttentionMaps(Shown):
    """The attention of all heads over one text.

    Attributes:
        tokens: text of each token, as the tokenizer shows it (a space is a space).
        ids: (seq,) token ids.
        weights: (n_layers, n_heads, seq, seq); `weights[l, h, i, j]` is how much of its attention
            head h of layer l gives at position i to position j. Rows sum to 1; entries above the
            diagonal are 0.
        value_lengths: (n_layers, n_heads, seq), see the function of that name.
    """

    tokens: tuple[str, ...]
    ids: IntArray
    weights: Float32Array
    value_lengths: Float32Array

    @property
    def n_layers(self) -> int:
        """Number of layers."""
        return int(self.weights.shape[0])

    @property
    def n_heads(self) -> int:
        """Query heads in each layer."""
        return int(self.weights.shape[1])

    @property
    def seq(self) -> int:
        """Number of tokens."""
        return int(self.weights.shape[2])

    def head(self, layer: int, head: int) -> Float32Array:
        """Weights of one head, (seq, seq); BadInputError if there is no such layer or head."""
        require_existing("layer", layer, self.n_layers)
        require_existing("head", head, self.n_heads)
        return np.asarray(self.weights[layer, head])

    def average(self, layer: int | None = None) -> Float32Array:
        """Mean weights over the heads of a layer, or of all layers, (seq, seq)."""
        if layer is None:
            return np.asarray(self.weights.mean(axis=(0, 1)))
        require_existing("layer", layer, self.n_layers)
        return np.asarray(self.weights[layer].mean(axis=0))

    def norms(self, layer: int, head: int) -> Float32Array:
        """Value-weighted norms of one head, (seq, seq): weight times length of what it fetches."""
        return np.asarray(self.head(layer, head) * self.value_lengths[layer, head][None, :])

    def rollout(self) -> Float32Array:
        """Attention rollout: how much of each token's state traces back to each input token.

        One layer's attention says where a head looks in that layer's input, which is itself a
        mixture of earlier tokens. Rollout multiplies the layers together (Abnar and Zuidema 2020,
        section 3):

            A'_l = (mean over heads of A_l + I) / 2      the residual stream looks at itself
            R_l  = A'_l R_(l-1),  R_0 = I

        Entry [l, i, j] of (n_layers, seq, seq) is the part of token j in position i after layer l.
        Rows sum to 1, and later tokens have no part. Computed in float64.
        """
        identity = np.eye(self.seq)
        flow, rolled = identity, []
        for layer in self.weights:
            flow = (layer.mean(axis=0, dtype=np.float64) + identity) / 2 @ flow
            rolled.append(flow.astype(np.float32))
        return np.stack(rolled)


@dataclass(frozen=True)
class Looked:
    """One token that was looked at: its position, its text, and how much."""

    position: int
    token: str
    value: float


def most_looked_at(
    rows: Float32Array, tokens: tuple[str, ...], position: int, count: int
) -> list[Looked]:
    """What the token at `position` looked at most: at most `count` tokens, the strongest first.

    `rows` are (seq, seq) weights or norms, row = the token that looks.

    Raises:
        BadInputError: there is no such token.
    """
    require_existing("token", position, len(tokens))
    row = rows[position, : position + 1]
    # Ties go to the nearest token, so that the answer does not hang on the sort.
    order = np.lexsort((-np.arange(len(row)), -row))[:count]
    return [Looked(int(j), tokens[j], float(row[j])) for j in order]


def read_attention(model: Transformer, tokenizer: Tokenizer, ids: IntArray) -> AttentionMaps:
    """Run the plain model over one text and keep all its attention weights.

    The text is (seq,) ids, 1 to the model's context length. The model is left as it was.
    """
    trace = traced(model, ids[None])
    weights = np.stack([layer[0].float().cpu().numpy() for layer in trace.attention])
    tokens = tuple(tokenizer.piece(int(i)) for i in ids)
    return AttentionMaps(tokens, ids.astype(np.int64), weights, value_lengths(model, trace))


@torch.inference_mode()
def traced(model: Transformer, ids: IdArray) -> Trace:
    """What happens inside the plain model over a batch of texts, (batch, seq) ids."""
    trace = Trace()
    with evaluating(model):
        text = torch.from_numpy(ids.astype(np.int64)).to(model.embedding.weight.device)
        model(text, trace=trace, last_only=True)  # The logits are not asked for.
    shape = [(model.config.n_heads, ids.shape[1])] * model.config.n_layers
    if [weights.shape[1:3] for weights in trace.attention] != shape:
        raise BadInputError(
            f"{model.config.family} does not show {model.config.n_layers} layers of "
            f"{model.config.n_heads} heads",
            "Compute the weights of each layer, (rows, heads, tokens, tokens), with torch's "
            "softmax or scaled_dot_product_attention; the mask is checked all the same",
        )
    return trace


@torch.inference_mode()
def value_lengths(model: Transformer, trace: Trace) -> Float32Array:
    """Norm of what each head would add to the residual stream if it looked at one position alone.

    Weights alone mislead: a head may look hard at a token whose value is next to nothing. What it
    adds at position i is sum over j of weight[i, j] * W_O v_j; the norm of each summand is
    weight[i, j] * |W_O v_j| (Kobayashi et al. 2020, section 3). The second factor does not depend
    on i, so it is kept once for each head and position of the trace, which is of a batch of one
    text: (n_layers, n_heads, seq) float32; NaN for a model of one's own.
    """
    if isinstance(model, OwnModel):  # What its heads add is not known.
        shape = [(weights.size(1), weights.size(2)) for weights in trace.attention]
        return np.full((len(shape), *shape[0]), np.nan, np.float32)
    lengths = []
    for attention, values in zip(attention_layers(model), trace.values, strict=True):
        # (d_model, n_heads * head_dim), columns by head.
        output = attention.output.weight.double()
        by_head = output.view(output.shape[0], model.config.n_heads, -1)
        moved = values[0].double().transpose(0, 1).unsqueeze(-2) @ by_head.permute(1, 2, 0)
        lengths.append(moved.squeeze(-2).norm(dim=-1).T.float().cpu().numpy())
    return np.stack(lengths)


def quantise(maps: Float32Array) -> ByteArray:
    """Lower triangles of maps, row by row, as the square root of the weight in 255 steps.

    Of (n, seq, seq) weights from 0 to 1, (n, seq * (seq + 1) / 2) bytes; a byte b stands for
    (b / 255)^2, and 0 for NaN.
    """
    rows, columns = np.tril_indices(maps.shape[1])
    clipped = np.nan_to_num(np.clip(maps[:, rows, columns], 0.0, 1.0))
    return np.round(255 * np.sqrt(clipped)).astype(np.uint8)


def require_existing(what: str, number: int, count: int) -> None:
    """Refuse a layer, a head or a token (`what`) that does not exist, saying which do."""
    if not 0 <= number < count:
        only = f"Choose {what} 0, the only one"
        fix = only if count == 1 else f"Choose a {what} from 0 to {count - 1}"
        raise BadInputError(f"{what} {number} does not exist", fix)


def require_fits(seq: int, config: ModelConfig) -> None:
    """Refuse an empty text, and one that is longer than the model's context."""
    if seq == 0:
        raise BadInputError("the prompt is empty", "Give at least one character with --prompt")
    if seq > config.context_length:
        raise BadInputError(
            f"the prompt is {seq:,} tokens long, and the model's context is "
            f"{config.context_length:,}",
            "Shorten the prompt",
        )
