"""Sessions of training to be killed, and what their runs come to.

The campaign imports torch once and forks a process for each session, so that a kill and a resume
take a fraction of a second.
"""

import json
import os
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

# One thread: the numbers of a run depend on it, and a process of several can't be forked.
os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
import torch._dynamo  # each child would import it for itself, in a second and a half
from safetensors.torch import load_file
from small_runs import TINY_MODEL, TINY_TRAIN, VERSES

from minitx.checkpoint.rundir import RunDirectory
from minitx.workflows import run_session
from minitx.workflows.resume import ResumeRequest, resume
from minitx.workflows.train import TrainRequest, train

torch.set_num_threads(1)
# Samples are most of what so small a run computes, and nothing of what is tested here.
run_session._SAMPLE_TOKENS = {"cpu": 8}

VARIANTS = (
    {"optimizer": "muon", "accumulation": 1, "dropout": 0.0},
    {"optimizer": "adamw", "accumulation": 2, "dropout": 0.2},
    {"optimizer": "muon", "accumulation": 3, "dropout": 0.1},
    {"optimizer": "adamw", "accumulation": 1, "dropout": 0.0},
)


@contextmanager
def scratch(corpus=VERSES):
    """A directory with a corpus in it, removed afterwards."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        (directory / "corpus.txt").write_text(corpus)
        yield directory


def request(directory, out, variant=VARIANTS[0], **train_keys):
    keys = dict(variant)
    model = {**TINY_MODEL, "dropout": keys.pop("dropout")}
    train_keys = {**TINY_TRAIN, "log_every": 1, **keys, **train_keys}
    return TrainRequest(
        data={"corpus": (str(directory / "corpus.txt"),)}, model=model, train=train_keys, out=out
    )


def forked(work):
    """Start `work()` in a process of its own; its exit code is 0, or that of its error."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        null = os.open(os.devnull, os.O_RDWR)
        for handle in (0, 1, 2):
            os.dup2(null, handle)
        work()
        code = 0
    except BaseException as error:
        code = error.code if isinstance(error, SystemExit) else getattr(error, "exit_code", 1)
        (Path(os.environ.get("VICTIM_ERRORS", os.devnull))).write_text(repr(error))
    finally:
        os._exit(code)


def start(run, first_request):
    """Begin a run in a process of its own, or go on with it if it can be."""
    if RunDirectory(run).steps():
        return forked(lambda: resume(ResumeRequest(run), []))
    return forked(lambda: train(first_request, []))


def finish(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def result(run):
    """All that a run came to, but for what the clock decides."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_bytes().splitlines()]
    metrics = [{key: value for key, value in line.items() if key != "timing"} for line in lines]
    last = RunDirectory(run).usable_checkpoint("last")
    tensors = load_file(last / "model.safetensors") | load_file(last / "optimizer.safetensors")
    return metrics, {name: tensor.numpy().tobytes() for name, tensor in sorted(tensors.items())}


def table(title, rows):
    print(title)
    for name, value in rows:
        print(f"  {name:<58}{value:>12}")
