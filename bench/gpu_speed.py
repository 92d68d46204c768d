"""Training tokens a second at the shape of GPT-2 (124 M) on a GPU, beside nanoGPT.

python bench/gpu_speed.py --nanogpt PATH
"""

from __future__ import annotations

import argparse
import contextlib
import io
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from harness import Result, Samples, Table, Target, interleave, publish
from peers import Step, Workload, minitx_model, minitx_shape, nanogpt_model

from minitx.compute import Compute
from minitx.config import TrainConfig
from minitx.training.gradients import GradientPass
from minitx.training.optimizers import make_optimizer

GPT2 = Workload("GPT-2 124 M", 12, 12, 768, 1024, 32, vocabulary=50304)
PASSES = 16
"""In a step: half a million tokens, as GPT-2's own batches have."""

PEAK_SIZE = 8192
"""Of the square matrices whose product is the limit."""

GPU = torch.device("cuda")


@dataclass(frozen=True)
class Contender:
    """Who takes part.

    Attributes:
        first_seconds: of the first step, with all that is compiled in it.
        step: one more.
    """

    first_seconds: float
    step: Step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nanogpt", type=Path, help="a checkout of karpathy/nanoGPT")
    parser.add_argument("--rounds", type=int, default=2, help="turns of each contender")
    parser.add_argument("--out", type=Path, help="write the JSON here instead")
    given = parser.parse_args()
    torch.set_float32_matmul_precision("high")  # as nanoGPT has it
    peak = matmul_peak()
    builders: dict[str, Callable[[], Step]] = {"minitx, muon": minitx_step}
    if given.nanogpt:
        builders["nanoGPT, its train.py's settings"] = lambda: nanogpt_step(given.nanogpt)
    contenders = {name: _built(build) for name, build in builders.items()}
    steps = {name: contender.step for name, contender in contenders.items()}
    timed = interleave(steps, given.rounds, per_round=1, warmup=0)
    publish(_result(peak, contenders, timed), given.out, on_gpu=True)


def matmul_peak(seconds: float = 2.0) -> float:
    """Rate of large products of bfloat16, in floating-point operations a second.

    The average over this time, of random numbers: a GPU that works for a while draws more power
    and is slower than in its first millisecond, and with zeros it is faster than in earnest.
    """
    a, b = (torch.randn(PEAK_SIZE, PEAK_SIZE, device=GPU, dtype=torch.bfloat16) for _ in "ab")
    for _ in range(5):
        torch.mm(a, b)
    torch.cuda.synchronize()
    began, n_products = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        for _ in range(20):
            torch.mm(a, b)
        n_products += 20
        torch.cuda.synchronize()
    return 2.0 * PEAK_SIZE**3 * n_products / (time.perf_counter() - began)


def minitx_step() -> Step:
    """Our step, as `minitx train` takes it on a GPU."""
    model = minitx_model(GPT2).to(GPU)
    config = TrainConfig(steps=1, batch_size=GPT2.batch, learning_rate=1e-3, accumulation=PASSES)
    update = make_optimizer(model, config, torch.bfloat16)
    a_pass = GradientPass(model, Compute(GPU, torch.bfloat16), PASSES, "torch-compile")
    inputs, targets = (ids.to(GPU) for ids in GPT2.data())

    def step() -> float:
        for _ in range(PASSES):
            loss = a_pass(inputs, targets)
        update.step(1.0)
        return float(loss)

    return step


def nanogpt_step(checkout: Path) -> Step:
    """The step of nanoGPT's train.py on a GPU: compiled, in bfloat16, with its fused AdamW."""
    model = nanogpt_model(GPT2, checkout).to(GPU)
    with contextlib.redirect_stdout(io.StringIO()):
        optimizer = model.configure_optimizers(0.1, 6e-4, (0.9, 0.95), "cuda")
    compiled = torch.compile(model)
    inputs, targets = (ids.to(GPU) for ids in GPT2.data())

    def step() -> float:
        for _ in range(PASSES):
            with torch.autocast("cuda", torch.bfloat16):
                _, loss = compiled(inputs, targets)
                loss = loss / PASSES
            loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    return step


def _built(build: Callable[[], Step]) -> Contender:
    torch.cuda.empty_cache()
    step = build()
    began = time.perf_counter()
    step()
    first = time.perf_counter() - began
    step()
    return Contender(first, step)


def _result(peak: float, contenders: dict[str, Contender], timed: dict[str, Samples]) -> Result:
    shape = minitx_shape(GPT2)
    tokens = GPT2.tokens * PASSES
    flops = shape.flops_per_token * tokens
    ours = timed["minitx, muon"].median
    rows = [
        [
            name,
            f"{contenders[name].first_seconds:.1f} s",
            f"{samples.median * 1e3:,.0f} ms",
            f"{samples.spread:.1%}",
            f"{tokens / samples.median:,.0f}",
            f"{flops / samples.median / peak:.1%}",
            f"{samples.median / ours:.2f}",
        ]
        for name, samples in timed.items()
    ]
    columns = [
        "who", "first step", "a step", "spread", "tokens/s", "of the product rate",
        "our speed over theirs",
    ]  # fmt: skip
    part = flops / ours / peak
    return Result(
        name="gpu_speed",
        title="Training speed at the shape of GPT-2 on a GPU",
        about=f"{GPT2.layers} layers of {GPT2.width}, {GPT2.heads} heads, context "
        f"{GPT2.context:,}, {GPT2.vocabulary:,} ids, {shape.n_parameters / 1e6:.0f} M "
        f"parameters. A step is {PASSES} passes over {GPT2.batch} x {GPT2.context:,} tokens, "
        "forward and backward, clipping, update, and reading the loss. Each one's first step "
        "compiles. The limit is the rate of products of two "
        f"{PEAK_SIZE:,} x {PEAK_SIZE:,} matrices of random bfloat16, over two seconds: "
        f"{peak / 1e12:.0f} TFLOP/s. A token counts {shape.flops_per_token / 1e6:.0f} M "
        "operations: six for each weight of a matrix, and the causal half of attention's products; "
        "what the optimizer multiplies is not counted.",
        tables=[Table("In turn, in one process:", columns, rows)],
        targets=[
            Target("at least 50 % of the bfloat16 product rate", f"{part:.1%}", part >= 0.5),
        ],
        raw={
            "peak": peak,
            "flops_per_step": flops,
            "contenders": {
                name: {
                    "first_seconds": contenders[name].first_seconds,
                    "seconds": samples.seconds,
                }
                for name, samples in timed.items()
            },
        },
    )  # fmt: skip


if __name__ == "__main__":
    main()
