"""What the film of a run costs: the time of its moments beside that of the whole run.

python bench/film_cost.py
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from harness import Result, Table, Target, publish

from minitx.inspection.film_recorder import SHARE, FilmRecorder
from minitx.workflows.train import TrainRequest, train

SHAPES = {
    "2 x 64": {"n_layers": 2, "n_heads": 2, "d_model": 64, "context_length": 128},
    "4 x 128": {"n_layers": 4, "n_heads": 4, "d_model": 128, "context_length": 128},
    "6 x 384": {"n_layers": 6, "n_heads": 6, "d_model": 384, "context_length": 256},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--budget", default=120.0, type=float, help="seconds of each run")
    parser.add_argument("--out", type=Path, help="write the JSON here instead")
    given = parser.parse_args()
    took: list[float] = []
    look = FilmRecorder.look

    def timed(recorder: FilmRecorder, step: int) -> object:
        began = time.perf_counter()
        moment = look(recorder, step)
        took.append(time.perf_counter() - began)
        return moment

    FilmRecorder.look = timed  # type: ignore[assignment,method-assign]
    rows, shares, raw = [], [], {}
    for name, shape in SHAPES.items():
        took.clear()
        with tempfile.TemporaryDirectory() as temporary:
            request = TrainRequest(
                data={"corpus": ()}, model=shape, train={"budget_seconds": given.budget},
                out=Path(temporary) / "run",
            )  # fmt: skip
            end = train(request, []).end
            n_bytes = (Path(temporary) / "run" / "film.jsonl").stat().st_size
        share = sum(took) / end.elapsed_seconds
        each = f"{1e3 * statistics.mean(took):,.0f} ms" if took else "–"
        size = f"{n_bytes / 1e6:.2f} MB"
        rows.append([name, f"{end.step:,}", str(len(took)), each, size, f"{share:.2%}"])
        shares.append(share)
        raw[name] = {"seconds": list(took), "elapsed": end.elapsed_seconds, "bytes": n_bytes}
    worst = max(shares)
    result = Result(
        name="film_cost",
        title="What the film of a run costs",
        about=f"`minitx train` on the text that comes with Python, {given.budget:g} s for each "
        "shape (layers x width), and the time that looking at its model took.",
        tables=[
            Table("Measured:", ["model", "steps", "moments", "one takes", "on disk", "of the time"],
                  rows)
        ],
        targets=[Target("at most 1 % of the time", f"{worst:.2%}", worst <= SHARE)],
        raw=raw,
    )  # fmt: skip
    publish(result, given.out)


if __name__ == "__main__":
    main()
