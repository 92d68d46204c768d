"""The planned recipe against neighbours chosen by hand, on texts that it was not tuned to.

python bench/plan.py
python bench/plan.py --kinds --rate 194 --budget 16 --jobs 2
"""

from __future__ import annotations

import argparse
import gettext
import json
import multiprocessing
import os
import shutil
import statistics
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from harness import Result, Table, Target, publish, result_file
from kinds_of_text import KINDS, MOST, both_parts

from minitx.checkpoint.huggingface import load_model
from minitx.checkpoint.rundir import RunDirectory, resolve_checkpoint
from minitx.config import RunConfig
from minitx.corpus import encode_file, load_encoded
from minitx.corpus.sources import default_text
from minitx.evaluation.arrays import bits_per
from minitx.evaluation.scoring import score
from minitx.tokenizer import load_tokenizer
from minitx.training.machine_speed import MachineSpeed
from minitx.training.observer import RunStart, TrainingObserver
from minitx.training.planning import LADDER
from minitx.workflows import prepare
from minitx.workflows.train import FinishedRun, TrainRequest, train

LANGUAGE = "pl"
"""Its message catalogs are read: a Debian system carries them with its programs."""

MOST_ELSEWHERE = 0.1
"""Part of the processor's time that others may take during a run that counts, ..."""

TRIES = 3
"""... or it is done again, so often at most."""

SEEDS = (2, 3)
"""For the plan and the change that looked best."""

DROPOUTS = (0.0, 0.05, 0.1, 0.2)
"""A plan's neighbours are the next ones."""


@dataclass(frozen=True)
class Trial:
    """One run.

    Attributes:
        text: which.
        change: what differs from the plan; empty for the plan itself.
        loss: of the whole holdout, nats per token, of the checkpoint that a person would use.
        bits_per_byte: the same.
        seconds: the whole call.
        shape: of the model.
        epochs: how often the train part was read.
        seed: of weights and data order.
    """

    text: str
    change: str
    loss: float
    bits_per_byte: float
    seconds: float
    shape: str
    epochs: float
    seed: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--budget", type=float, default=10.0, help="seconds of each run")
    parser.add_argument(
        "--kinds", action="store_true",
        help="eight kinds of text, of which the last tenth is scored and seen by no run",
    )  # fmt: skip
    parser.add_argument("--texts", nargs="+", metavar="NAME", help="of those, these alone")
    parser.add_argument("--add", action="store_true", help="keep what was found of other texts")
    parser.add_argument("--out", type=Path, help="write the JSON here instead")
    parser.add_argument(
        "--rate", type=float,
        help="plan, and count steps, for a machine of so many billion operations of training a "
        "second instead of this one: others may then use the processor meanwhile",
    )  # fmt: skip
    parser.add_argument(
        "--jobs", type=int, default=1, help="with --rate: runs at once, each on one thread"
    )
    given = parser.parse_args()
    known = KINDS if given.kinds else TEXTS
    names = given.texts or list(known)
    if unknown := set(names) - set(known):
        parser.error(f"no text {', '.join(unknown)}; there are {', '.join(known)}")
    if given.jobs > 1 and not given.rate:
        parser.error("runs at once disturb each other: --jobs needs --rate")
    path = given.out or result_file("plan_kinds" if given.kinds else "plan")
    trials: list[Trial] = []
    if given.add and path.is_file():
        earlier = json.loads(path.read_text())["raw"]["trials"]
        trials = [Trial(**trial) for trial in earlier if trial["text"] not in names]
    with (
        tempfile.TemporaryDirectory() as work,
        ProcessPoolExecutor(
            given.jobs, multiprocessing.get_context("spawn"), _begin, (given.rate, given.jobs)
        ) as runs,
    ):
        for name in names:
            trials += _trials(name, given.budget, Path(work, name), runs)
            # Some texts may be run again after others.
            trials.sort(key=lambda trial: list(known).index(trial.text))
            # A long bench keeps what it has.
            publish(_result(trials, given), given.out)


def reference() -> str:
    return default_text()


def own_source() -> str:
    files = sorted((Path(__file__).parent.parent / "src").rglob("*.py"))
    return "\n".join(file.read_text() for file in files)


def messages() -> str:
    found: list[str] = []
    for path in sorted(Path("/usr/share/locale", LANGUAGE, "LC_MESSAGES").glob("*.mo")):
        with path.open("rb") as file:
            catalog = gettext.GNUTranslations(file)._catalog  # type: ignore[attr-defined]
        found += [text for text in catalog.values() if isinstance(text, str)]
    return "\n".join(found)[:1_500_000]


def small() -> str:
    return reference()[:50_000]


def large() -> str:
    return "".join(_sources(20_000_000))


def _sources(n_bytes: int) -> Iterator[str]:
    for key in ("stdlib", "purelib"):
        for path in sorted(Path(sysconfig.get_path(key)).rglob("*.py")):
            if n_bytes <= 0:
                return
            try:
                text = path.read_text()
            except (OSError, UnicodeDecodeError):
                continue
            n_bytes -= len(text)
            yield text


TEXTS: dict[str, tuple[str, Callable[[], str]]] = {
    "reference": ("the Python reference that Python carries", reference),
    "source": ("the source of minitx", own_source),
    "messages": (f"messages of programs in the language {LANGUAGE}", messages),
    "small": ("the first 50,000 characters of the reference", small),
    "large": ("20 MB of Python source", large),
}


DESCRIPTIONS = {name: text[0] for name, text in (TEXTS | KINDS).items()}

PRETENDED: list[float] = []
"""The rate that `--rate` names, in billions."""


def _begin(rate: float | None, jobs: int) -> None:
    if jobs > 1:
        torch.set_num_threads(1)
    if rate:
        PRETENDED.append(rate)
        prepare.kept_speed = lambda *_: MachineSpeed(rate * 1e9, time.time())


def _train(request: TrainRequest) -> FinishedRun:
    assert request.out is not None
    shutil.rmtree(request.out, ignore_errors=True)
    if PRETENDED:
        # What the clock would decide there follows from the rate.
        plan = planned(request)
        kept = {key: value for key, value in asdict(plan.train).items() if key != "budget_seconds"}
        model, tokenizer = asdict(plan.model), asdict(plan.tokenizer)
        request = replace(request, model=model, train=kept, tokenizer=tokenizer)
    return train(request, [])


class _Planned(TrainingObserver, Exception):  # noqa: N818
    """Ends a run before its first step, and has its plan."""

    def on_start(self, start: RunStart) -> None:
        self.config = start.config
        raise self


def planned(request: TrainRequest) -> RunConfig:
    """The plan of a run that is not done."""
    end = _Planned()
    try:
        train(request, [end])
    except _Planned:
        return end.config
    raise AssertionError("a run without a plan")


@dataclass(frozen=True)
class Change:
    """What a run does otherwise than the plan.

    Attributes:
        name: for tables.
        model, train, tokenizer: keys of the configuration.
    """

    name: str
    model: dict[str, Any] = field(default_factory=dict)
    train: dict[str, Any] = field(default_factory=dict)
    tokenizer: dict[str, Any] = field(default_factory=dict)


def _trials(name: str, budget: float, work: Path, runs: ProcessPoolExecutor) -> list[Trial]:
    text, unseen = _written(name, work)

    def begun(change: Change, directory: str) -> Future[tuple[Trial, RunConfig]]:
        return runs.submit(_run, name, text, unseen, budget, work / directory, change)

    planned, config = begun(Change(""), "plan").result()
    fixed = {"kind": config.tokenizer.kind, "vocab_size": config.tokenizer.vocab_size}
    # Another model would be planned another tokenizer.
    changes = [replace(c, tokenizer=c.tokenizer or fixed) for c in _neighbours(config)]
    waiting = [begun(change, str(number)) for number, change in enumerate(changes)]
    trials = [trial.result()[0] for trial in waiting]
    # The best of many single runs was lucky, too: with other seeds, it is not.
    best = changes[min(range(len(trials)), key=lambda at: trials[at].bits_per_byte)]
    waiting = [
        begun(replace(change, train={**change.train, "seed": seed}), f"{seed}-{at}")
        for seed in SEEDS
        for at, change in enumerate((Change(""), best))
    ]
    return [planned, *trials, *(trial.result()[0] for trial in waiting)]


def _written(name: str, work: Path) -> tuple[Path, Path | None]:
    # A file to train on, and one that is scored, unless that is the holdout.
    work.mkdir()
    if name in TEXTS:
        text = work / f"{name}.txt"
        text.write_text(TEXTS[name][1]())
        return text, None
    suffix, make = KINDS[name][1:]
    text, unseen = work / f"{name}{suffix}", work / f"unseen{suffix}"
    for path, part in zip((text, unseen), both_parts(make()), strict=True):
        path.write_text(part)
    return text, unseen


def _neighbours(config: RunConfig) -> Iterator[Change]:
    shape, train, tokenizer = config.model, config.train, config.tokenizer
    rung = [(s.n_layers, s.d_model) for s in LADDER].index((shape.n_layers, shape.d_model))
    for word, index in (("smaller", rung - 1), ("larger", rung + 1)):
        if 0 <= index < len(LADDER):
            yield Change(f"{word} model", model=asdict(LADDER[index]))
    for factor in (0.5, 2.0):
        keys = ("learning_rate", "muon_learning_rate")
        rates = {key: getattr(train, key) * factor for key in keys}
        yield Change(f"{factor:g} times the rates", train=rates)
    for factor in (0.5, 2.0):
        batch = {"batch_size": max(1, round(train.batch_size * factor))}
        yield Change(f"{factor:g} times the batch", train=batch)
    level = DROPOUTS.index(shape.dropout)
    for dropout in (*DROPOUTS[max(0, level - 1) : level], *DROPOUTS[level + 1 : level + 2]):
        yield Change(f"dropout {dropout:g}", model={"dropout": dropout})
    if train.max_steps:
        yield Change("twice the epochs at most", train={"max_steps": 2 * train.max_steps})
    if tokenizer.kind == "char":
        yield Change("pieces of words", tokenizer={"kind": "bpe"})
        return
    yield Change("characters", tokenizer={"kind": "char"})
    for factor in (0.5, 2.0):
        # 256 bytes and an end are none that was learned.
        ids = max(320, round(tokenizer.vocab_size * factor))
        yield Change(f"{factor:g} times the ids", tokenizer={"kind": "bpe", "vocab_size": ids})


def _undisturbed(call: Callable[[], Any]) -> tuple[Any, float]:
    # Two threads that wait for each other lose far more than what another program takes.
    for _ in range(TRIES):
        before, began = _cpu_seconds(), time.perf_counter()
        result = call()
        seconds = time.perf_counter() - began
        mine, all_ = (now - then for now, then in zip(_cpu_seconds(), before, strict=True))
        if PRETENDED or all_ - mine <= MOST_ELSEWHERE * all_:
            break
        print(f"again: others took {1 - mine / all_:.0%}", file=sys.stderr, flush=True)
    return result, seconds


def _cpu_seconds() -> tuple[float, float]:
    # Of this process, and of all that keep a processor busy, also from outside a virtual machine.
    try:
        ticks = [int(part) for part in Path("/proc/stat").read_text().split()[1:9]]
    except OSError:
        return time.process_time(), time.process_time()
    idle = ticks[3] + ticks[4]
    return time.process_time(), (sum(ticks) - idle) / os.sysconf("SC_CLK_TCK")


def _run(
    name: str, text: Path, unseen: Path | None, budget: float, run: Path, change: Change
) -> tuple[Trial, RunConfig]:
    request = TrainRequest(
        data={"corpus": (str(text),)}, tokenizer=change.tokenizer, model=change.model,
        train={"budget_seconds": budget, **change.train}, out=run,
    )  # fmt: skip
    finished, seconds = _undisturbed(lambda: _train(request))
    config = RunDirectory.open(run).read_config()
    checkpoint = resolve_checkpoint(run)
    loaded = load_model(checkpoint)
    corpus = load_encoded(run / "data")
    ids, n_bytes = corpus.holdout_ids, corpus.holdout.bytes
    if unseen is not None:
        encoded = encode_file(unseen, load_tokenizer(checkpoint))
        ids, n_bytes = encoded.ids, encoded.counts.bytes
    loss = score(loaded.model, ids).loss
    vocabulary = f"{config.tokenizer.kind}, {config.model.vocab_size:,}"
    trial = Trial(
        name, change.name, loss, bits_per(loss, n_bytes / len(ids)), seconds,
        f"{config.model.n_layers} x {config.model.d_model} ({vocabulary})",
        finished.end.tokens / len(corpus.train_ids), config.train.seed,
    )  # fmt: skip
    print(trial, file=sys.stderr, flush=True)
    return trial, config


def _how_steady(trials: list[Trial]) -> str:
    # The plan and its neighbours in rates do the same work in a step.
    ranges = []
    for name in dict.fromkeys(trial.text for trial in trials):
        planned = next(t for t in trials if t.text == name and not t.change)
        alike = [
            t.epochs for t in trials
            if t.text == name and t.shape == planned.shape
            and (not t.change or t.change.endswith("the rates")) and t.seed not in SEEDS
        ]  # fmt: skip
        ranges.append(f"{max(alike) / min(alike) - 1:.0%} ({DESCRIPTIONS[name]})")
    return (
        "How steady the machine was: of the plan and its neighbours in the rates, which do the "
        "same work in a step, the fastest did so much more in its time than the slowest: "
        f"{', '.join(ranges)}. A distance to the plan is partly that."
    )


def _again(trials: list[Trial]) -> tuple[str, float, float]:
    """The change that was tried with other seeds, and bits per byte of it and of the plan."""
    again = [trial for trial in trials if trial.seed in SEEDS]
    change = next(trial.change for trial in again if trial.change)
    sides: tuple[list[float], list[float]] = ([], [])
    for trial in again:
        sides[not trial.change].append(trial.bits_per_byte)
    return change, statistics.mean(sides[0]), statistics.mean(sides[1])


def _result(trials: list[Trial], given: argparse.Namespace) -> Result:
    rows, compared, targets = [], [], []
    for name in dict.fromkeys(trial.text for trial in trials):
        mine = [trial for trial in trials if trial.text == name]
        single = [trial for trial in mine if trial.seed not in SEEDS]
        planned = next(trial for trial in single if not trial.change)
        for trial in single:
            rows.append(
                [
                    DESCRIPTIONS[name] if trial is planned else "",
                    trial.change or "the plan",
                    trial.shape,
                    f"{trial.epochs:.2f}",
                    f"{trial.bits_per_byte:.4f}",
                    f"{trial.bits_per_byte / planned.bits_per_byte - 1:+.1%}"
                    if trial.change else "",
                ]
            )  # fmt: skip
        change, best, plan = _again(mine)
        loses = plan / best - 1
        compared.append([DESCRIPTIONS[name], change, f"{best:.4f}", f"{plan:.4f}", f"{loses:+.1%}"])
        targets.append(
            Target(
                f"at most 2 % worse than the best found: {DESCRIPTIONS[name]}",
                f"{loses:+.1%} beside {change}" if loses > 0 else "the plan is the best",
                loses <= 0.02,
            )
        )
    scored = "the whole holdout"
    tuned = (
        "Rates were chosen on tiny Shakespeare alone; sizes, batch, dropout and tokenizer on that, "
        "on these texts, and on parts of them (`docs/plan.md`)."
    )
    if given.kinds:
        scored = "the last tenth of the text, which neither plan nor run sees,"
        tuned = (
            "One rule was chosen on one of these texts: how many ids a text has whose characters "
            "hardly tell the next one, on the DNA. Nothing was on the others. They are taken from "
            f"the standard library and torch, or generated, {MOST / 1e6:.1f} million characters of "
            "each at most (`bench/kinds_of_text.py`)."
        )
    machine = "A run during which others took more than a tenth of the processor is done again."
    if given.rate:
        machine = (
            f"Steps are those of a machine that does {given.rate:g} billion operations of training "
            "a second, so nothing depends on what else this one did."
        )
    return Result(
        name="plan_kinds" if given.kinds else "plan",
        title="The plan on eight kinds of text" if given.kinds else "The plan on other texts",
        about=f"For each text, the plan of `minitx train` with {given.budget:.0f} seconds, and its "
        "neighbours with the same time: the next smaller and larger model of the ladder, half and "
        "twice both learning rates, half and twice the batch, the next lower and higher dropout, "
        "characters instead of pieces of words or the other way, and half and twice as many of "
        f"these. The figure is bits per byte of {scored} with the checkpoint that other "
        f"commands use. The best neighbour and the plan are then run with {len(SEEDS)} other "
        "seeds, since the best of a dozen single runs was lucky, too; what counts is the average "
        f"of these alone. {machine} {tuned}",
        tables=[
            Table(
                "Other seeds, averages:",
                ["text", "best neighbour", "bits per byte", "the plan", "to it"],
                compared,
            ),
            Table(
                "Single runs:",
                [
                    "text",
                    "change",
                    "layers x width (ids)",
                    "epochs",
                    "bits per byte",
                    "to the plan",
                ],
                rows,
                labels=2,
            ),
        ],
        targets=targets,
        notes=[] if given.rate else [_how_steady(trials)],
        raw={"trials": [asdict(trial) for trial in trials], "budget": given.budget},
    )


if __name__ == "__main__":
    main()
