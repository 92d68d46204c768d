"""One forward pass as the steps that a paper draws, each with its numbers, its formula, its line.

The model is not written a second time here: its modules are watched while it reads a text.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from minitx.evaluation.arrays import IntArray
from minitx.inspection.interventions import require_blocks
from minitx.model import Trace, Transformer, evaluating, transformer


@dataclass(frozen=True)
class Step:
    """One step, of a text of `seq` tokens.

    Attributes:
        where: `embedding`, `block 0`, ..., `output`.
        name: what it computes.
        formula: in the letters of `model/transformer.py`.
        line: of that file, from 1.
        columns: what a column of its numbers is: `width`, `head width`, `token looked at`, ...
        n_heads: how many matrices it has; 0 for one that belongs to no head.
        shape: of a matrix, (seq, columns).
        values: gives the matrix of a head, or the only one.
    """

    where: str
    name: str
    formula: str
    line: int
    columns: str
    n_heads: int
    shape: tuple[int, int]
    values: Callable[[int], Tensor]


@cache
def source() -> str:
    """The text of `model/transformer.py`."""
    return inspect.getsource(transformer)


@cache
def line_of(code: str) -> int:
    """Number of the one line of the model's file that has this code."""
    lines = [i for i, line in enumerate(source().splitlines(), 1) if code in line]
    (line,) = lines
    return line


@torch.inference_mode()
def forward_steps(model: Transformer, ids: IntArray) -> list[Step]:
    """Run the plain model over one text, (seq,) ids, and keep what it computes."""
    require_blocks(model)
    seen: dict[tuple[nn.Module, str], Tensor] = {}
    trace = Trace()
    text = torch.from_numpy(ids.astype("int64")).to(model.embedding.weight.device)

    def keep(module: nn.Module, given: tuple[Any, ...], out: Tensor) -> None:
        seen[module, "in"], seen[module, "out"] = given[0], out

    with ExitStack() as hooks, evaluating(model):
        for module in model.modules():
            hooks.enter_context(module.register_forward_hook(keep))
        logits = model(text[None], trace=trace)[0]
    values = {key: value[0] for key, value in seen.items()}
    return [*_embedding(model, text, values, trace), *(
        step for layer in range(model.config.n_layers)
        for step in _block(model, layer, values, trace)
    ), *_output(model, values, logits)]  # fmt: skip


_Values = dict[tuple[nn.Module, str], Tensor]
_RMS = ("x / sqrt(mean(x²) + ε) · gain", "return F.rms_norm(")
_LAYER = ("(x − mean(x)) / sqrt(var(x) + ε) · gain + bias", "return F.layer_norm(")
_QKV = "heads = self.qkv(x)"


def _step(
    where: str, name: str, formula: str, code: str, values: Tensor, columns: str = "width"
) -> Step:
    """A step with its numbers at hand: `(seq, columns)`, or `(heads, seq, columns)`."""
    n_heads = len(values) if values.dim() == 3 else 0
    seq, width = values.shape[-2:]

    def matrix(head: int) -> Tensor:
        return values[head] if n_heads else values

    return Step(where, name, formula, line_of(code), columns, n_heads, (seq, width), matrix)


def _embedding(model: Transformer, text: Tensor, seen: _Values, trace: Trace) -> Iterator[Step]:
    code = "x: Tensor = self.embedding(ids)"
    yield _step("embedding", "token ids", "ids", code, text[:, None], "id")
    embedded = seen[model.embedding, "out"]
    yield _step("embedding", "token embedding", "x = E[ids]", code, embedded)
    if model.positions is not None:
        code, first = "x = x + self.positions(", trace.residual[0][0]
        yield _step("embedding", "position added", "x = x + P[position]", code, first)


def _block(model: Transformer, layer: int, seen: _Values, trace: Trace) -> Iterator[Step]:
    block: Any = model.blocks[layer]
    attention, mlp, config = block.attention, block.mlp, model.config
    where, is_gpt2 = f"block {layer}", config.architecture == "gpt2"
    norm, norm_code = _LAYER if is_gpt2 else _RMS
    bias = " + b" if is_gpt2 else ""

    def step(name: str, formula: str, code: str, values: Tensor, columns: str = "width") -> Step:
        return _step(where, name, formula, code, values, columns)

    yield step("norm", f"n = {norm}", norm_code, seen[block.attention_norm, "out"])
    heads = seen[attention.qkv, "out"].view(len(trace.residual[0][0]), -1, config.head_dim)
    sizes = [config.n_heads, config.n_kv_heads, config.n_kv_heads]
    parts = [part.transpose(0, 1) for part in torch.split(heads, sizes, dim=1)]
    for name, letter, part in zip(("queries", "keys", "values"), "QKV", parts, strict=True):
        added = " + b" if config.qkv_bias else ""
        yield step(name, f"{letter} = n W_{letter}{added}", _QKV, part, "head width")
    queries, keys = trace.queries[layer][0], trace.keys[layer][0]
    if not is_gpt2:
        for name, letter, module, turned in (
            ("queries", "Q", attention.query_norm, queries),
            ("keys", "K", attention.key_norm, keys),
        ):
            if module is not None:
                title, normed = f"norm of {name}", seen[module, "out"].transpose(0, 1)
                yield step(title, f"{letter} = {_RMS[0]}", norm_code, normed, "head width")
            yield step(
                f"rotation of {name}", "(a, b) → (a cos − b sin, b cos + a sin)",
                "return x * cosine", turned, "head width",
            )  # fmt: skip
    yield from _looking(where, queries, keys, trace.attention[layer][0])
    mixed = trace.head_outputs[layer][0]
    yield step("mix", "A V", "return F.dropout(weights, dropout) @ values", mixed, "head width")
    out = seen[attention.output, "out"]
    yield step("output", f"[heads side by side] W_O{bias}", "self.output(mixed", out)
    yield step("residual", "x = x + output", "x = x + F.dropout(", seen[block.mlp_norm, "in"])
    yield step("norm for the MLP", f"n = {norm}", norm_code, seen[block.mlp_norm, "out"])
    if is_gpt2:
        code = "out: Tensor = self.down(F.gelu("
        yield step("up", "n W_up + b", code, seen[mlp.up, "out"], "MLP width")
        yield step("activation", "gelu(up)", code, seen[mlp.down, "in"], "MLP width")
    else:
        gate, up = seen[mlp.gate_up, "out"].chunk(2, dim=-1)
        split, code = "gate, up = self.gate_up(x)", "out: Tensor = self.down(F.silu("
        yield step("gate", "n W_gate", split, gate, "MLP width")
        yield step("up", "n W_up", split, up, "MLP width")
        yield step("activation", "silu(gate) · up", code, seen[mlp.down, "in"], "MLP width")
    yield step("MLP output", f"activation W_down{bias}", code, seen[mlp.down, "out"])
    code = "return x + F.dropout(self.mlp("
    yield step("second residual", "x = x + MLP output", code, trace.residual[layer + 1][0])


def _looking(where: str, queries: Tensor, keys: Tensor, weights: Tensor) -> Iterator[Step]:
    """Scores and mask of one head at a time, when asked for: they are large."""
    n_heads, seq, width = queries.shape
    ahead = torch.ones(seq, seq, dtype=torch.bool, device=queries.device).triu(1)

    def scores(head: int) -> Tensor:
        return queries[head] @ keys[head].T / math.sqrt(width)

    def masked(head: int) -> Tensor:
        return scores(head).masked_fill(ahead, -math.inf)

    for name, formula, code, values in (
        ("scores", "S = Q Kᵀ / sqrt(W)", "scores = queries @ keys.transpose", scores),
        ("mask", "S = −∞ where j > i", "scores = scores.masked_fill", masked),
        ("softmax", "A = exp(S) / Σ exp(S)", "scores.softmax(dim=-1)", weights.__getitem__),
    ):
        shape = seq, seq
        yield Step(where, name, formula, line_of(code), "token looked at", n_heads, shape, values)


def _output(model: Transformer, seen: _Values, logits: Tensor) -> Iterator[Step]:
    norm, norm_code = _LAYER if model.positions is not None else _RMS
    code, columns = "self.head(self.norm(x))", "token"
    yield _step("output", "last norm", f"n = {norm}", norm_code, seen[model.norm, "out"])
    yield _step("output", "logits", "z = n W_head", code, logits, columns)
    chances = logits.float().softmax(dim=-1)
    yield _step("output", "softmax", "p = exp(z) / Σ exp(z)", code, chances, columns)
