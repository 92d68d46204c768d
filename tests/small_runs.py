"""What small runs in tests are made of."""

from pathlib import Path

SHAKESPEARE = Path(__file__).parents[2] / "shared/data/tinyshakespeare.txt"

VERSES = "".join(
    f"{number} green bottle{'s' if number != 1 else ''} hanging on the wall,\n"
    f"and if one green bottle should accidentally fall,\n"
    f"there'll be {number - 1} green bottles hanging on the wall.\n\n"
    for number in range(60, 0, -1)
)
"""About 8 KB of text that a tiny model learns in a second."""

TINY_MODEL = {
    "n_layers": 2, "n_heads": 2, "n_kv_heads": 1, "d_model": 16, "d_ff": 32, "context_length": 32,
}  # fmt: skip
TINY_TRAIN = {
    "steps": 30, "batch_size": 4, "evaluate_every": 10, "checkpoint_every": 10, "log_every": 3,
    "threads": 1, "dtype": "float32", "device": "cpu",
}  # fmt: skip
