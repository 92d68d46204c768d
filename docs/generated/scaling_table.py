"""The table of docs/scaling.md, from the cost model.

python docs/generated/scaling_table.py            writes it into the page
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from minitx.config import ModelConfig
from minitx.report.terminal.units import bytes_, count
from minitx.training.cost import Workload, memory, step_cost
from minitx.training.devices import DEVICES

PAGE = Path(__file__).parents[1] / "scaling.md"
BEGIN, END = "<!-- made by generated/scaling_table.py -->\n", "<!-- end -->\n"

DEVICE, COUNTS = DEVICES["h200"], (1, 8, 64)
STEP_TOKENS = 2**19


def _gpt2(layers: int, heads: int, width: int) -> ModelConfig:
    return ModelConfig(
        vocab_size=50_257, context_length=1024, n_layers=layers, n_heads=heads, n_kv_heads=heads,
        d_model=width, d_ff=4 * width, head_dim=width // heads, architecture="gpt2",
    )  # fmt: skip


SEVEN = ModelConfig(
    vocab_size=32_000, context_length=4096, n_layers=32, n_heads=32, n_kv_heads=32, d_model=4096,
    d_ff=11_008, head_dim=128, tie_embeddings=False,
)  # fmt: skip
# Each with the sequences of a pass.
MODELS = (
    ("124 M", _gpt2(12, 12, 768), 8), ("1.5 B", _gpt2(48, 25, 1600), 4), ("7 B", SEVEN, 1),
)  # fmt: skip
WORK = Workload(dtype="bfloat16", native=False, on_cpu=False)
WAYS = ({}, {"recompute": True}, {"shard": True}, {"shard": True, "recompute": True})


def rows() -> list[list[str]]:
    """Each model on so many devices, in the first way that fits."""
    made = []
    for name, config, batch in MODELS:
        for n in COUNTS:
            passes = STEP_TOKENS // (n * batch * config.context_length)
            for way in WAYS:
                work = replace(WORK, batch_size=batch, passes=passes, processes=n, **way)
                peak = memory(config, work).peak
                if peak <= DEVICE.memory:
                    break
            cost = step_cost(config, work, DEVICE)
            waits = 1 - cost.compute_seconds / cost.seconds
            fits = " and ".join(way) or "as it is"
            made.append(
                [
                    f"{name} ({count(config.n_parameters)})" if n == COUNTS[0] else "",
                    str(n),
                    f"{passes} x {batch}",
                    fits if peak <= DEVICE.memory else "does not fit",
                    bytes_(peak),
                    f"{cost.seconds:.3g} s",
                    f"{waits:.0%}",
                    count(STEP_TOKENS / cost.seconds),
                ]
            )
    return made


def table() -> str:
    """As Markdown."""
    columns = [
        "model", "H200s", "passes x sequences on each", "way", "memory of each", "a step",
        "waiting", "tokens a second",
    ]  # fmt: skip
    lines = [columns, ["---"] * len(columns), *rows()]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def with_table(page: str) -> str:
    """The page with the table as it is now."""
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}\n{table()}\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text()))
