"""The forms of attention, forward and backward, by length and number format.

python bench/attention_forms.py

What it finds on a CPU is kept in `minitx.fast.support` and, for dropout, in `minitx.fast.layers`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from harness import Result, Samples, Table, Target, interleave, publish
from torch.nn import functional as F

from minitx.fast.library import library
from minitx.fast.support import LONGEST_ATTENTION
from minitx.fast.train_kernels import attend
from minitx.model.transformer import causal_mask, eager_attention

LENGTHS = (32, 64, 128, 256, 512, 1024)
TOKENS = 2048
HEADS, HEAD_DIM = 4, 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=4, help="turns of each form")
    parser.add_argument("--out", type=Path, help="write the JSON here instead")
    given = parser.parse_args()
    rows, targets, raw = [], [], {}
    for dtype in (torch.float32, torch.bfloat16):
        name = str(dtype).removeprefix("torch.")
        for length in LENGTHS:
            timed = _timed(length, dtype, given.rounds)
            chosen = "native" if "native" in timed and length <= LONGEST_ATTENTION else "sdpa"
            rows.append(
                [
                    name,
                    f"{TOKENS // length} x {length}",
                    *(
                        f"{1e3 * timed[form].median:.2f} ms" if form in timed else "-"
                        for form in ("eager", "sdpa", "native")
                    ),
                    chosen,
                ]
            )
            loses = timed[chosen].median / min(s.median for s in timed.values()) - 1
            raw[f"{name} {length}"] = {f: list(s.seconds) for f, s in timed.items()}
            targets.append((name, length, loses))
    worst = max(targets, key=lambda target: target[2])
    publish(
        Result(
            name="attention_forms",
            title="Which form of attention",
            about=f"Forward and backward of each form over {TOKENS:,} tokens, {HEADS} heads of "
            f"{HEAD_DIM}, in turns: `eager_attention` with its weights stored, torch's "
            "`scaled_dot_product_attention` (sdpa), and minitx's kernel (native). Training takes "
            "what the last column says, which `minitx/fast/support.py` keeps.",
            tables=[
                Table(
                    "On this CPU:",
                    [
                        "format",
                        "batch x length",
                        "eager",
                        "sdpa",
                        "native",
                        "training",
                    ],
                    rows,
                    labels=2,
                )
            ],
            targets=[
                Target(
                    "the form taken is never more than 25 % slower than another",
                    f"{worst[2]:.0%} at {worst[0]}, length {worst[1]}",
                    worst[2] <= 0.25,
                )
            ],
            raw=raw,
        ),
        given.out,
    )


def _timed(length: int, dtype: torch.dtype, rounds: int) -> dict[str, Samples]:
    shape = (TOKENS // length, HEADS, length, HEAD_DIM)
    tensors = [torch.randn(shape).to(dtype).requires_grad_() for _ in range(3)]
    above = torch.randn(shape).to(dtype)
    mask = causal_mask(length, length)

    def eager() -> None:
        eager_attention(*tensors, mask)[0].backward(above)

    def sdpa() -> None:
        F.scaled_dot_product_attention(*tensors, is_causal=True).backward(above)

    qkv = torch.randn(TOKENS // length, length, 3 * HEADS * HEAD_DIM).to(dtype).requires_grad_()

    def native() -> None:
        attend(qkv, HEADS, HEADS, None, None, 0.0).backward(above.view(*qkv.shape[:2], -1))

    forms = {"eager": eager, "sdpa": sdpa}
    if library() is not None:
        forms["native"] = native
    return interleave(forms, rounds, 5)


if __name__ == "__main__":
    main()
