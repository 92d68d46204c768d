"""llama.cpp as a peer: our weights written as GGUF, read by the program that npm has built.

Needs node, a folder where `npm install node-llama-cpp` was run, and the package `gguf`.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from minitx.model import Transformer
from minitx.model.transformer import SwiGLU

_SCRIPT = Path(__file__).parent / "llama.mjs"


def missing_for_llama(installed: Path) -> str:
    """What it lacks here, and how to get that; empty if it can run."""
    if not shutil.which("node"):
        return "no program node; install Node.js"
    if not (installed / "node_modules/node-llama-cpp").is_dir():
        return f"no node-llama-cpp in {installed}; run npm install node-llama-cpp there"
    if importlib.util.find_spec("gguf") is None:
        return f"no package gguf; run {sys.executable} -m pip install gguf"
    return ""


def write_gguf(model: Transformer, path: Path, weight_format: str) -> None:
    """A Qwen3 model in float32, or its matrices in `q8_0`: 8 bits, a scale for each 32 weights."""
    import gguf

    config = model.config
    writer = gguf.GGUFWriter(path, "qwen3")
    writer.add_context_length(config.context_length)
    writer.add_embedding_length(config.d_model)
    writer.add_block_count(config.n_layers)
    writer.add_feed_forward_length(config.d_ff)
    writer.add_head_count(config.n_heads)
    writer.add_head_count_kv(config.n_kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_rope_freq_base(config.rope_theta)
    # Ids are all that is measured; llama.cpp wants a text for each.
    texts = [f"<{number}>" for number in range(config.vocab_size)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(texts)
    writer.add_token_types([gguf.TokenType.NORMAL] * len(texts))
    writer.add_token_merges([f"{texts[1]} {texts[2]}"])

    def add(name: str, tensor: torch.Tensor) -> None:
        data = tensor.detach().numpy().astype(np.float32)
        if weight_format == "q8_0" and data.ndim == 2:
            q8_0 = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(name, gguf.quants.quantize(data, q8_0), raw_dtype=q8_0)
        else:
            writer.add_tensor(name, data)

    add("token_embd.weight", model.embedding.weight)
    add("output_norm.weight", model.norm.gain)
    add("output.weight", model.head.weight)
    for number, block in enumerate(model.blocks):
        for name, tensor in _tensors_of(block):
            add(f"blk.{number}.{name}.weight", tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _tensors_of(block: Any) -> list[tuple[str, torch.Tensor]]:
    attention, mlp = block.attention, block.mlp
    assert isinstance(mlp, SwiGLU)
    queries = attention.n_heads * attention.head_dim
    keys = attention.n_kv_heads * attention.head_dim
    query, key, value = attention.qkv.weight.split([queries, keys, keys])
    gate, up = mlp.gate_up.weight.chunk(2)
    return [
        ("attn_norm", block.attention_norm.gain), ("ffn_norm", block.mlp_norm.gain),
        ("attn_q", query), ("attn_k", key), ("attn_v", value),
        ("attn_q_norm", attention.query_norm.gain), ("attn_k_norm", attention.key_norm.gain),
        ("attn_output", attention.output.weight),
        ("ffn_gate", gate), ("ffn_up", up), ("ffn_down", mlp.down.weight),
    ]  # fmt: skip


class LlamaProcess:
    """A process that has loaded a model and generates when asked."""

    def __init__(self, installed: Path, model: Path, threads: int) -> None:
        command = ["node", str(_SCRIPT), str(installed), str(model), str(threads)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._wait_for("ready")

    def run(self, tokens: int) -> None:
        """Generate so many tokens after one."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{tokens}\n")
        self._process.stdin.flush()
        self._wait_for("done")

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()

    def _wait_for(self, answer: str) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.strip() == answer:
                return
        raise RuntimeError(f"llama.cpp ended with {self._process.wait()}")
