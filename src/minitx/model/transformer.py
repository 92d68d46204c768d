"""The transformer: token ids in, logits for the next token out.

    ids -> embedding -> block 0 -> ... -> block n-1 -> norm -> head -> logits

Two architectures: `qwen3` (rotary positions, RMSNorm, SwiGLU, query/key norm, no biases) and
`gpt2` (learned positions, LayerNorm, GELU, biases).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minitx.config import ModelConfig
from minitx.config.train_config import AttentionForm
from minitx.errors import BadInputError
from minitx.model import native_block, native_head
from minitx.model.attention import Attention, AttentionContext, causal_mask
from minitx.model.attention_choice import choose_form, choose_general_form
from minitx.model.block import Block
from minitx.model.compiled import CompiledParts
from minitx.model.fast import cross_entropy, dropout
from minitx.model.initialization import initialize
from minitx.model.kv_cache import KVCache
from minitx.model.norms import LayerNorm, RMSNorm
from minitx.model.rotary import rotary_table
from minitx.model.trace import Trace

IGNORED = -100
"""Target that counts for no loss."""

_LOGITS_AT_ONCE = {"cpu": 2**20}
_LOGITS_AT_ONCE_ELSEWHERE = 2**26


class Transformer(nn.Module):
    """A decoder-only transformer.

    Args:
        config: its shape. Weights are drawn from torch's generator: seed that first.

    Attributes:
        attention_form: `explicit`, `fused`, `compiled` (in training, where it can be used; else
            the faster of the other two), or `auto` for the fastest.
        ablated_heads: (layer, head) pairs whose output is set to 0; empty by default.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.attention_form: AttentionForm = "auto"
        self.ablated_heads: set[tuple[int, int]] = set()
        gpt2 = config.architecture == "gpt2"
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.positions = nn.Embedding(config.context_length, config.d_model) if gpt2 else None
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.n_layers))
        self.norm = (LayerNorm if gpt2 else RMSNorm)(config.d_model, config.norm_eps)
        self.head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        if config.tie_embeddings:
            # What a token looks like going in is what is looked for coming out
            # (Press and Wolf 2017).
            self.head.weight = self.embedding.weight
        self._compiled: CompiledParts | None = None
        self._tables: dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor]] = {}
        self._masks: dict[tuple[int, torch.device], Tensor] = {}
        initialize(self, config)

    def forward(
        self,
        ids: Tensor,
        cache: KVCache | None = None,
        lengths: Tensor | None = None,
        last_only: bool = False,
        trace: Trace | None = None,
    ) -> Tensor:
        """Logits of the token that follows each position.

        Args:
            ids: `(batch, seq)` int64.
            cache: keys and values of what came before; these tokens are appended to it.
            lengths: `(batch,)` how many of each row's tokens are real; the rest is padding, whose
                logits mean nothing. None if all are.
            last_only: compute logits only for the last real token of each row.
            trace: filled with what happened inside; makes attention explicit.

        Returns:
            `(batch, seq, vocab_size)`, or `(batch, 1, vocab_size)` with `last_only`.

        Raises:
            BadInputError: the sequence is longer than the context, or than the cache has room.
        """
        x = self._residual(ids, cache, lengths, trace)
        if last_only:
            if lengths is None:
                x = x[:, -1:]
            else:
                rows = torch.arange(len(ids), device=x.device)
                x = x[rows, lengths.to(x.device) - 1].unsqueeze(1)
        return self.unembed(x)

    def _residual(
        self, ids: Tensor, cache: KVCache | None, lengths: Tensor | None, trace: Trace | None
    ) -> Tensor:
        # The residual stream after the last block, (batch, seq, d_model).
        seq = ids.size(1)
        self._require_fits(seq, cache)
        x: Tensor = self.embedding(ids)
        context, positions = self._context(x, seq, cache, trace)
        if self.positions is not None:
            x = x + self.positions(positions)
        if self.training and self.config.dropout:
            x = dropout(x, self.config.dropout)
        if trace is not None:
            trace.residual.append(x)
        compiled = self._compiled_in_use(trace) if cache is None else None
        if compiled is None and self._runs_whole(x, context):
            assert context.cosine is not None
            assert context.sine is not None
            return native_block.run(self._stack, x, context.cosine, context.sine)
        for block in self._stack:
            x = compiled.block(block, x, context) if compiled else block(x, context)
            if trace is not None:
                trace.residual.append(x)
        if cache is not None:
            cache.advance(seq if lengths is None else lengths)
        return x

    def compile_parts(self) -> None:
        """Run what is worth it through torch.compile from here on, in training."""
        self._compiled = CompiledParts()

    def _compiled_in_use(self, trace: Trace | None = None) -> CompiledParts | None:
        seen = trace is not None or self.ablated_heads
        return self._compiled if self.training and torch.is_grad_enabled() and not seen else None

    def _runs_whole(self, x: Tensor, context: AttentionContext) -> bool:
        return context.compiled and not self.ablated_heads and native_block.can_run(self._stack, x)

    def runs_whole(self, ids: Tensor) -> bool:
        """Whether `loss` computes each block in one call for `(batch, seq)` ids: `native_block`."""
        x = self.embedding(ids)
        return self._runs_whole(x, self._context(x, ids.size(1), None, None)[0])

    @property
    def _stack(self) -> list[Block]:
        return [block for block in self.blocks if isinstance(block, Block)]

    def unembed(self, x: Tensor) -> Tensor:
        """Logits that a residual stream `(..., d_model)` stands for: `(..., vocab_size)`."""
        logits: Tensor = self.head(self.norm(x))
        return logits

    def loss(self, ids: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy in nats per target.

        Args:
            ids: `(batch, seq)`.
            targets: `(batch, seq)`: the token that follows each position; `IGNORED` is left out.

        Returns:
            Scalar, float32 or better.
        """
        if native_block.is_watched((self,)):
            logits: Tensor = self(ids)
        else:
            x = self._residual(ids, None, None, None)
            compiled = self._compiled_in_use()
            if compiled is not None:
                return compiled.loss(self.norm, self.head, x, targets, IGNORED)
            if native_head.can_run(self.norm, self.head, x):
                assert isinstance(self.norm, RMSNorm)
                return native_head.loss(self.norm, self.head, x, targets, IGNORED)
            logits = self.unembed(x)
        return cross_entropy(logits.flatten(0, 1), targets.flatten(), IGNORED)

    def token_losses(self, ids: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy of each target in nats, `(batch, seq)` float32; 0 where `IGNORED`."""
        x = self._residual(ids, None, None, None).flatten(0, 1)
        most = _LOGITS_AT_ONCE.get(x.device.type, _LOGITS_AT_ONCE_ELSEWHERE)
        # In slices: the logits of many tokens over a large vocabulary are slow to write and read.
        n_tokens = max(1, most // self.config.vocab_size)
        losses = [
            F.cross_entropy(
                self.unembed(some).float(), expected, ignore_index=IGNORED, reduction="none"
            )
            for some, expected in zip(
                torch.split(x, n_tokens), torch.split(targets.flatten(), n_tokens), strict=True
            )
        ]
        return torch.cat(losses).view(targets.shape)

    def matrix_parameters(self) -> Iterator[tuple[str, nn.Parameter, tuple[int, ...]]]:
        """The matrices of the blocks: name, parameter `(rows, columns)`, and how rows split.

        A fused matrix holds several in its rows: queries, keys and values, or gate and up.
        """
        config = self.config
        kv = config.n_kv_heads * config.head_dim
        sections = {
            "attention.qkv.weight": (config.n_heads * config.head_dim, kv, kv),
            "mlp.gate_up.weight": (config.d_ff, config.d_ff),
        }
        for name, parameter in self.blocks.named_parameters(prefix="blocks"):
            if parameter.dim() == 2:
                part = name.split(".", 2)[2]
                yield name, parameter, sections.get(part, (parameter.size(0),))

    def attention_layers(self) -> list[Attention]:
        """The attention layer of each block."""
        return [block.attention for block in self.blocks if isinstance(block, Block)]

    def _require_fits(self, seq: int, cache: KVCache | None) -> None:
        if cache is not None:
            cache.require_room(seq)
            if cache.capacity > self.config.context_length:
                raise BadInputError(
                    f"a cache of {cache.capacity:,} positions exceeds the context of "
                    f"{self.config.context_length:,}",
                    "Make a smaller one",
                )
        if seq > self.config.context_length:
            raise BadInputError(
                f"{seq:,} tokens are longer than the context of {self.config.context_length:,}",
                "Give fewer",
            )

    def _context(
        self, x: Tensor, seq: int, cache: KVCache | None, trace: Trace | None
    ) -> tuple[AttentionContext, Tensor]:
        # Also the positions of the new tokens, `(seq,)` or `(batch, seq)`.
        device = x.device
        start = 0 if cache is None else cache.common_length
        casts = torch.is_autocast_enabled(device.type)
        products = torch.get_autocast_dtype(device.type) if casts else x.dtype
        form, training = self.attention_form, torch.is_grad_enabled()
        if form == "auto":
            form = choose_form(device.type, products, seq, training)
        compiled = form == "compiled" and cache is None and trace is None
        if form == "compiled":
            form = choose_general_form(device.type, products, seq, training)
        context = AttentionContext(
            fused=form == "fused" and trace is None,
            compiled=compiled,
            cache=cache,
            trace=trace,
            ablated_heads=frozenset(self.ablated_heads),
        )
        if start is not None:
            positions = torch.arange(start, start + seq, device=device)
            context.square = start == 0
            # One new token may look at all that is cached, and the fused form has its own mask.
            if seq > 1 and not (context.fused and context.square):
                context.mask = self._causal_mask(start + seq, device)[start:]
        else:
            assert cache is not None
            offsets = torch.arange(seq, device=device)
            positions = cache.lengths.to(device)[:, None] + offsets
            context.places, context.square = positions, False
            keys = torch.arange(int(cache.lengths.max()) + seq, device=device)
            context.mask = (keys <= positions[:, :, None]).unsqueeze(1)
        if self.positions is None:
            context.cosine, context.sine = self._rotary(positions, start, seq, device, products)
        return context, positions

    def _rotary(
        self,
        positions: Tensor,
        start: int | None,
        seq: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor]:
        key = (device, dtype)
        if key not in self._tables:
            # Kept for training too, where tensors made in inference mode can't be used.
            with torch.inference_mode(False):
                cosine, sine = rotary_table(
                    self.config.head_dim, self.config.context_length, self.config.rope_theta, dtype
                )
                self._tables[key] = (cosine.to(device), sine.to(device))
        cosine, sine = self._tables[key]
        if start is not None:
            return cosine[start : start + seq], sine[start : start + seq]
        # Padding of a nearly full row may lie past the table; nothing looks at it.
        inside = positions.clamp(max=self.config.context_length - 1)
        return cosine[inside], sine[inside]

    def _causal_mask(self, length: int, device: torch.device) -> Tensor:
        key = (length, device)
        if key not in self._masks:
            with torch.inference_mode(False):
                self._masks = {key: causal_mask(length, length, device)}
        return self._masks[key]
