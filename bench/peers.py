"""Who takes part: minitx, nanoGPT from a checkout, and transformers in the manner of its Trainer.

Each is a function that builds a model of the given shape and returns one training step: forward,
backward, clipping, update, and the loss read as a number.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from minitx.config import ModelConfig
    from minitx.model import Transformer

Step = Callable[[], float]


@dataclass(frozen=True)
class Workload:
    """A shape and a batch.

    Attributes:
        name: for tables.
        layers, heads, width, context, batch: what they say; the vocabulary is tiny Shakespeare's.
    """

    name: str
    layers: int
    heads: int
    width: int
    context: int
    batch: int
    vocabulary: int = 65

    @property
    def tokens(self) -> int:
        return self.batch * self.context

    def data(self) -> tuple[torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(0)
        shape = (self.batch, self.context + 1)
        ids = torch.randint(self.vocabulary, shape, generator=generator)
        return ids[:, :-1].contiguous(), ids[:, 1:].contiguous()


NANOGPT_CPU = Workload("nanoGPT's CPU recipe: 4 layers, 128 wide", 4, 4, 128, 64, 12)
# Half the batch of nanoGPT's recipe for this shape, so that a comparison ends within minutes.
SHAKESPEARE_GPU = Workload("10.7 M: 6 layers, 384 wide", 6, 6, 384, 256, 32)
WORKLOADS = {"small": NANOGPT_CPU, "large": SHAKESPEARE_GPU}


def minitx_step(
    load: Workload, optimizer: str = "muon", dtype: str = "auto", engine: str = "auto"
) -> Step:
    """Our training step as `minitx train` takes it, with as many parameters as the peers."""
    from minitx.compute import Compute, choose_device, choose_dtype, keep_freed_memory
    from minitx.config import TrainConfig
    from minitx.training.gradients import GradientPass
    from minitx.training.optimizers import make_optimizer

    model = minitx_model(load)
    config = TrainConfig(steps=1, batch_size=load.batch, learning_rate=1e-3, optimizer=optimizer)
    device = choose_device("cpu")
    compute = Compute(device, choose_dtype(dtype, device))
    update = make_optimizer(model, config, compute.dtype)
    gradient_pass = GradientPass(model, compute, engine=engine)
    inputs, targets = load.data()
    keep_freed_memory()

    def step() -> float:
        loss = gradient_pass(inputs, targets)
        update.step(1.0)
        return float(loss)

    return step


def minitx_shape(load: Workload) -> ModelConfig:
    """Our model of a shape."""
    from minitx.config import ModelConfig

    # Three matrices of 8/3 d_model weigh as much as two of 4 d_model; whole vectors of 8.
    return ModelConfig(
        vocab_size=load.vocabulary, context_length=load.context, n_layers=load.layers,
        n_heads=load.heads, n_kv_heads=load.heads, d_model=load.width,
        d_ff=round(load.width * 8 / 3 / 8) * 8, head_dim=load.width // load.heads,
    )  # fmt: skip


def minitx_model(load: Workload) -> Transformer:
    """The same with weights, to be trained."""
    from minitx.model import Transformer

    torch.manual_seed(0)
    return Transformer(minitx_shape(load)).train()


def nanogpt_model(load: Workload, checkout: Path) -> torch.nn.Module:
    """nanoGPT's model of a shape."""
    sys.path.insert(0, str(checkout))
    from model import GPT, GPTConfig

    with contextlib.redirect_stdout(io.StringIO()):
        return GPT(
            GPTConfig(
                block_size=load.context, vocab_size=load.vocabulary, n_layer=load.layers,
                n_head=load.heads, n_embd=load.width, dropout=0.0, bias=False,
            )
        )  # fmt: skip


def nanogpt_step(load: Workload, checkout: Path, *, compiled: bool = False) -> Step:
    """The step of nanoGPT's train.py on a CPU: its model and its optimizer.

    Args:
        load: the shape.
        checkout: of nanoGPT.
        compiled: as with its `--compile=True`; the first step then compiles.
    """
    model = nanogpt_model(load, checkout)
    with contextlib.redirect_stdout(io.StringIO()):
        optimizer = model.configure_optimizers(0.1, 1e-3, (0.9, 0.99), "cpu")
    forward = torch.compile(model) if compiled else model
    inputs, targets = load.data()

    def step() -> float:
        _, loss = forward(inputs, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    return step


def transformers_step(load: Workload, family: str) -> Step:
    """What `transformers.Trainer` does in a step by default, without its bookkeeping.

    Args:
        load: the shape.
        family: `gpt2` or `qwen3`.
    """
    import transformers

    transformers.logging.set_verbosity_error()
    common = {"vocab_size": load.vocabulary, "use_cache": False}
    if family == "gpt2":
        config = transformers.GPT2Config(
            n_positions=load.context, n_embd=load.width, n_layer=load.layers, n_head=load.heads,
            resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, **common,
        )  # fmt: skip
        model = transformers.GPT2LMHeadModel(config)
    else:
        config = transformers.Qwen3Config(
            hidden_size=load.width, num_hidden_layers=load.layers, num_attention_heads=load.heads,
            num_key_value_heads=load.heads, head_dim=load.width // load.heads,
            intermediate_size=round(load.width * 8 / 3 / 8) * 8, tie_word_embeddings=True,
            max_position_embeddings=load.context, **common,
        )  # fmt: skip
        model = transformers.Qwen3ForCausalLM(config)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
    inputs, _ = load.data()

    def step() -> float:
        # The model shifts the labels itself.
        loss = model(input_ids=inputs, labels=inputs).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.detach())

    return step


COMPILED = "nanoGPT --compile=True"


def compiles_for_cpu() -> bool:
    """Whether torch.compile has the C++ compiler that it needs for a CPU."""
    return bool(os.environ.get("CXX") or shutil.which("g++"))


def contenders(load: Workload, checkout: Path | None) -> dict[str, Callable[[], Step]]:
    """Name to a function that builds that contender's step."""
    found: dict[str, Callable[[], Step]] = {
        "minitx, muon": lambda: minitx_step(load, "muon"),
        "minitx, adamw": lambda: minitx_step(load, "adamw"),
    }
    if checkout is not None:
        found["nanoGPT"] = lambda: nanogpt_step(load, checkout)
        if compiles_for_cpu():
            found[COMPILED] = lambda: nanogpt_step(load, checkout, compiled=True)
    with contextlib.suppress(ImportError):
        import transformers

        version = transformers.__version__
        found[f"transformers {version} GPT-2"] = lambda: transformers_step(load, "gpt2")
        found[f"transformers {version} Qwen3"] = lambda: transformers_step(load, "qwen3")
    return found
