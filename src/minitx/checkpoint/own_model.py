"""A model of a person's own, in the place of a `Transformer`: any module from ids to logits.

It has no cache of keys and values. What has been read is kept instead, as ids, in the cache that it
is given, and each new token reads all of it again: right for any causal module, and slower.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from minitx.checkpoint.own_code import OwnCode
from minitx.config import ModelConfig
from minitx.errors import BadInputError, DamagedFileError
from minitx.model import KVCache, Trace, Transformer


class OwnModel(Transformer):
    """What `code` builds for a config, with the methods of a `Transformer` that run it.

    Attributes:
        module: from ids `(B, T)` to logits `(B, T, vocab_size)`.

    Raises:
        BadInputError: as `OwnCode.build`; and when it is called, where the code raises, or gives
            something else than such logits.
    """

    def __init__(self, config: ModelConfig, code: OwnCode) -> None:
        nn.Module.__init__(self)
        self.config, self.code = config, code
        self.module = code.build(config)

    @property
    def embedding(self) -> Any:  # type: ignore[override]
        """Tells where the model is, as an embedding's weight does."""
        device = next(self.parameters()).device
        return SimpleNamespace(weight=torch.empty(0, device=device))

    @property
    def blocks(self) -> nn.ModuleList:  # type: ignore[override]
        """None that are known."""
        return nn.ModuleList()

    def matrices(self) -> list[tuple[str, nn.Parameter, tuple[int, ...]]]:
        """As `matrix_parameters`: all but embeddings, and what has a row or column for each id."""
        tables = {id(m.weight) for m in self.modules() if isinstance(m, nn.Embedding)}
        return [
            (name, parameter, (parameter.size(0),))
            for name, parameter in self.named_parameters()
            if parameter.dim() == 2
            and id(parameter) not in tables
            and self.config.vocab_size not in parameter.shape
        ]

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint keeps: parameters and buffers by name, shared ones once."""
        state = self.module.state_dict(keep_vars=True)
        first: dict[int, str] = {}
        for name, tensor in state.items():
            first.setdefault(id(tensor), name)
        return {name: state[name] for name in first.values() if isinstance(state[name], Tensor)}

    def read_tensors(self, path: Path) -> None:
        """Take up what a safetensors file keeps of `tensors`.

        Raises:
            DamagedFileError: it can't be read, or holds others.
        """
        fix = "Use another checkpoint, or train again"
        try:
            kept = load_file(path)
        except (SafetensorError, OSError) as error:
            raise DamagedFileError(f"{path} can't be read: {error}", fix) from None
        own = self.tensors()
        if odd := sorted(own.keys() ^ kept.keys()):
            raise DamagedFileError(f"{path} does not fit {self.code.file}: {odd[0]}", fix)
        with torch.no_grad():
            for name, tensor in own.items():
                if tensor.shape != kept[name].shape:
                    what = f"{path}: tensor {name} is {tuple(kept[name].shape)} instead of"
                    raise DamagedFileError(f"{what} {tuple(tensor.shape)}", fix)
                tensor.copy_(kept[name])

    def forward(
        self,
        ids: Tensor,
        cache: KVCache | None = None,
        lengths: Tensor | None = None,
        last_only: bool = False,
        trace: Trace | None = None,
    ) -> Tensor:
        """As `Transformer.forward`; of a trace, `attention` is filled, as far as it is seen."""
        new, text = ids.size(1), ids
        positions = torch.arange(new, device=ids.device).expand(ids.shape)
        if cache is not None:
            cache.require_room(new)
            positions = positions + cache.lengths.to(ids.device)[:, None]
            # Whole numbers up to 2^24 are exact in float32.
            told = ids[:, None, :, None].float()
            text = cache.append(0, told, told)[0][:, 0, :, 0].long()
            cache.advance(new if lengths is None else lengths)
        if last_only:
            last = lengths.to(ids.device) - 1 if lengths is not None else positions.new_tensor(-1)
            positions = positions.gather(1, (last % new).expand(len(ids))[:, None])
        logits = self._logits(text, trace)
        if positions.size(1) == text.size(1):
            return logits
        return logits.gather(1, positions[..., None].expand(-1, -1, logits.size(-1)))

    def token_losses(self, ids: Tensor, targets: Tensor) -> Tensor:
        """As `Transformer.token_losses`."""
        logits = self(ids).flatten(0, 1).float()
        return F.cross_entropy(logits, targets.flatten(), reduction="none").view(targets.shape)

    def attention_shape(self) -> tuple[int, int] | None:
        """Layers, and heads in each, whose attention is seen; None where it is not, or differs."""
        trace, config = Trace(), self.config
        length = min(8, config.context_length)
        ids = torch.arange(length, device=self.embedding.weight.device) % config.vocab_size
        with torch.no_grad():
            self._logits(ids[None], trace)
        heads = {weights.size(1) for weights in trace.attention}
        return (len(trace.attention), heads.pop()) if len(heads) == 1 else None

    def _logits(self, ids: Tensor, trace: Trace | None) -> Tensor:
        longest, shape = self.config.context_length, (*ids.shape, self.config.vocab_size)
        if ids.size(1) > longest:
            what = f"{ids.size(1):,} tokens are longer than the context of {longest:,}"
            raise BadInputError(what, "Give fewer")
        with self.code.told():
            if trace is None:
                logits = self.module(ids)
            else:
                with _Watch(trace, ids.shape):
                    logits = self.module(ids)
                trace.attention[:] = self._by_layer(trace.attention)
        if not (
            isinstance(logits, Tensor) and logits.is_floating_point() and logits.shape == shape
        ):
            given = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else ""
            kind = given or f"a {type(logits).__name__}"
            raise BadInputError(
                f"for ids of shape {tuple(ids.shape)}, {self.code.file} gives {kind}, and logits "
                f"of shape {shape} are wanted",
                "Let forward return logits alone: (rows, tokens, config.vocab_size)",
            )
        return logits

    def _by_layer(self, seen: list[Tensor]) -> list[Tensor]:
        # Heads that are computed one by one are gathered.
        heads = self.config.n_heads
        if len(seen) != self.config.n_layers * heads or any(one.size(1) > 1 for one in seen):
            return seen
        return [torch.cat(seen[i : i + heads], dim=1) for i in range(0, len(seen), heads)]


def new_model(config: ModelConfig, code: OwnCode | None) -> Transformer:
    """A model whose weights are drawn from torch's generator: of one's own code, if there is any.

    Raises:
        BadInputError: as `OwnCode.build`.
    """
    return Transformer(config) if code is None else OwnModel(config, code)


_SHOWN = "Leave it out; maps, --average, --rollout, --roles and --check-mask work"


def refuse_own(model: nn.Module, what: str, fix: str = _SHOWN) -> None:
    """Refuse what needs to know the parts of a model, for one whose parts nobody knows.

    Raises:
        BadInputError: naming the file that the model is from.
    """
    if isinstance(model, OwnModel):
        raise BadInputError(
            f"{what} needs the parts of a model, and those of {model.code.file} are not known", fix
        )


class _Watch(TorchFunctionMode):
    """Sees each softmax over the tokens, `(B, H, T, T)`, and notes it as attention."""

    def __init__(self, trace: Trace, shape: torch.Size) -> None:
        super().__init__()
        self._trace, self._shape = trace, shape

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs, name = dict(kwargs or {}), getattr(function, "__name__", "")
        if name == "multi_head_attention_forward":
            wanted = kwargs.pop("need_weights", True)
            averaged = kwargs.pop("average_attn_weights", True)
            out, weights = function(*args, **kwargs, need_weights=True, average_attn_weights=False)
            self._note(weights)
            return out, (weights.mean(1) if averaged else weights) if wanted else None
        result = function(*args, **kwargs)
        if name == "softmax" and isinstance(result, Tensor):
            self._note(result)
        elif name == "scaled_dot_product_attention":
            # With the unit matrix as values, what comes out are the weights.
            kwargs |= dict(zip(("query", "key", "value", "attn_mask"), args, strict=False))
            keys = kwargs["key"]
            unit = torch.eye(keys.size(-2), dtype=keys.dtype, device=keys.device)
            kwargs["value"] = unit.expand(*keys.shape[:-1], -1)
            kwargs |= dict(zip(("dropout_p", "is_causal"), args[4:], strict=False))
            self._note(function(**kwargs))
        return result

    def _note(self, weights: Tensor) -> None:
        batch, seq = self._shape
        if weights.dim() == 3 and weights.size(0) % batch == 0 and not weights.triu(1).any():
            weights = weights.view(batch, -1, *weights.shape[1:])
        if weights.dim() == 4 and weights.size(0) == batch and weights.shape[2:] == (seq, seq):
            self._trace.attention.append(weights.detach())
