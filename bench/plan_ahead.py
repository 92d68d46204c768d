"""What `minitx plan` says of a run, and what the run then takes and reaches.

python bench/plan_ahead.py
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from harness import Result, Table, Target, publish, result_file
from kinds_of_text import KINDS, MOST

MEMORY, TIME, LOSS = 0.10, 0.20, 0.03
"""How far a plan may be off, as a part."""


@dataclass(frozen=True)
class Case:
    """A text, the flags of a shape (empty for the planned one), and seconds of run and pilots."""

    text: str
    flags: str
    budget: int
    pilots: int


CASES = {
    "prose": Case("prose", "", 60, 20),
    "C++": Case("cpp", "", 60, 20),
    "chat": Case("chat", "", 60, 20),
    "names": Case("names", "", 60, 20),
    "4 x 256": Case("prose", "--layers 4 --d-model 256 --context 128", 30, 8),
    "6 x 384": Case("prose", "--layers 6 --d-model 384 --context 256 --batch-size 32", 30, 8),
    "8 x 512": Case("prose", "--layers 8 --d-model 512 --context 256 --batch-size 8", 30, 8),
    "3 x 96": Case("prose", "--layers 3 --d-model 96 --context 512 --kind bpe", 30, 8),
}  # fmt: skip
FLAGS = {
    "n_layers": "layers", "n_heads": "heads", "d_model": "d-model", "context_length": "context",
    "dropout": "dropout",
}  # fmt: skip
TRAIN = ("batch_size", "evaluate_every", "evaluation_tokens", "closing_tokens", "warmup_steps")


@dataclass(frozen=True)
class Seen:
    """What was said and what was: bytes, seconds, nats per token."""

    name: str
    shape: str
    memory: tuple[float, float]
    seconds: tuple[float, float]
    loss: tuple[float, float]
    between: tuple[float, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", metavar="NAME", choices=CASES, default=list(CASES))
    parser.add_argument("--add", action="store_true", help="keep what was found of other cases")
    parser.add_argument("--out", type=Path, help="write the JSON here instead")
    given = parser.parse_args()
    path = given.out or result_file("plan_ahead")
    seen: list[Seen] = []
    if given.add and path.is_file():
        kept = json.loads(path.read_text())["raw"]["cases"]
        seen = [Seen(**{k: tuple(v) if isinstance(v, list) else v for k, v in case.items()})
                for case in kept if case["name"] not in given.cases]  # fmt: skip
    for name in given.cases:
        seen.append(_seen(name, CASES[name]))
        seen.sort(key=lambda one: list(CASES).index(one.name))
        publish(_result(seen), given.out)


def _minitx(place: Path, *arguments: str) -> tuple[str, float]:
    # What it prints, and the peak of its memory.
    with (place / "out").open("w") as out:
        child = subprocess.Popen(
            [sys.executable, "-m", "minitx", *arguments], cwd=place, stdout=out
        )
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"minitx {' '.join(arguments)} ended with {child.returncode}")
    return (place / "out").read_text(), usage.ru_maxrss * 1024.0


def _seen(name: str, case: Case) -> Seen:
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        (place / "text.txt").write_text(KINDS[case.text][2]()[:MOST])
        asked = ["text.txt", *case.flags.split(), "--budget", f"{case.budget}s"]
        told, _ = _minitx(place, "plan", *asked, "--pilots", str(case.pilots), "--json")
        said = json.loads(told)
        values = {FLAGS[key]: said["model"][key] for key in FLAGS}
        values |= {key.replace("_", "-"): said["train"][key] for key in TRAIN}
        values |= {"kind": said["tokenizer"]["kind"], "steps": said["steps"]}
        if values["kind"] != "char":
            values["vocab-size"] = said["tokenizer"]["vocab_size"]
        flags = [word for key, value in values.items() for word in (f"--{key}", str(value))]
        _, peak = _minitx(place, "train", "text.txt", *flags, "--out", "run")
        lines = map(json.loads, (place / "run/metrics.jsonl").read_text().splitlines())
        end = next(line for line in lines if line["kind"] == "end")
        loss, model = said["loss"], said["model"]
        found = Seen(
            name,
            f"{model['n_layers']} x {model['d_model']}, {said['step_tokens']:,} tokens a step",
            (said["memory"]["peak"] + said["program"], peak),
            (said["seconds"], end["timing"]["elapsed_seconds"]),
            (loss["loss"], end["final_holdout_loss"]),
            (loss["low"], loss["high"]),
        )
    print(found, file=sys.stderr, flush=True)
    return found


def _off(pair: tuple[float, float]) -> float:
    return pair[0] / pair[1] - 1


def _result(seen: list[Seen]) -> Result:
    rows = [
        [
            one.name,
            one.shape,
            *(f"{part / 1e6:.0f} MB" for part in one.memory), f"{_off(one.memory):+.1%}",
            *(f"{part:.1f} s" for part in one.seconds), f"{_off(one.seconds):+.1%}",
            f"{one.loss[0]:.3f} ({one.between[0]:.3f} to {one.between[1]:.3f})",
            f"{one.loss[1]:.3f}", f"{_off(one.loss):+.1%}",
        ]
        for one in seen
    ]  # fmt: skip
    texts = [one for one in seen if not CASES[one.name].flags]
    targets = []
    for what, key, most, of in (
        ("memory", "memory", MEMORY, seen), ("time", "seconds", TIME, seen),
        ("loss of the four texts", "loss", LOSS, texts),
    ):  # fmt: skip
        if of:
            worst = max(of, key=lambda one: abs(_off(getattr(one, key))))
            off = _off(getattr(worst, key))
            typical = statistics.median(abs(_off(getattr(one, key))) for one in of)
            targets.append(
                Target(
                    f"{what} within {most:.0%} of what was measured, in each case",
                    f"at most {off:+.1%} ({worst.name}), {typical:.1%} in the middle",
                    abs(off) <= most,
                )
            )
    inside = sum(one.between[0] <= one.loss[1] <= one.between[1] for one in seen)
    return Result(
        name="plan_ahead",
        title="What a plan says, and what the run takes",
        about="`minitx plan`, and then the run that it describes, each a process of its own. Four "
        "texts, each with the planned shape for a minute, and four given shapes for half. The form "
        "of the law of the loss and its pilots were chosen while looking at these four texts, so "
        "they are no fresh test of it; docs/scaling.md has two that are. Of memory, what a run "
        "takes beside its model (60 MB) was chosen while looking at all eight, too. Memory is the "
        "process's largest resident size; time is that of training, with looks at the holdout "
        "and saving.",
        tables=[
            Table(
                "Planned and measured:",
                [
                    "case", "shape", "memory planned", "memory", "off", "time planned", "time",
                    "off", "loss planned (80 %)", "loss", "off",
                ],
                rows,
                labels=2,
            )
        ],
        targets=targets,
        notes=[f"The loss was within the 80 % range in {inside} of {len(seen)} cases."],
        raw={"cases": [asdict(one) for one in seen]},
    )  # fmt: skip


if __name__ == "__main__":
    main()
