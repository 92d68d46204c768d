"""The benches stay alive: what they share is right, and each of them starts."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

BENCH = Path(__file__).parents[1] / "bench"


SAMPLE_PEER = """
import torch
from torch import nn

class GPTConfig:
    def __init__(self, **sizes):
        vars(self).update(sizes)

class GPT(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.embedding = nn.Embedding(config.vocab_size, config.n_embd)
        self.head = nn.Linear(config.n_embd, config.vocab_size)

    def configure_optimizers(self, decay, rate, betas, device):
        return torch.optim.AdamW(self.parameters(), rate, betas, weight_decay=decay)

    def forward(self, ids, targets):
        logits = self.head(self.embedding(ids))
        return logits, nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
"""
"""What of nanoGPT the benches call."""

SMALLEST = """
import importlib, sys
from pathlib import Path

for name in sys.argv[2:]:
    importlib.import_module(name)
import peak, train_shapes
from harness import table_text
from peers import Workload

peak.SIZES, train_shapes.ROUNDS, train_shapes.SECONDS = (16,), 1, 0.0
assert peak.product_peak("float32", 0.01)[1] == 16
assert not peak.arithmetic_peak("float32", 1) <= 0
shapes = [Workload("1 x 16", 1, 1, 16, 8, 2)]
timed = train_shapes.measure(Path(sys.argv[1]), shapes)
print(table_text(train_shapes.table(timed, shapes)))
"""


def test_each_bench_can_be_loaded_and_the_smallest_shape_is_timed(tmp_path):
    (tmp_path / "model.py").write_text(SAMPLE_PEER)
    names = sorted(path.stem for path in BENCH.glob("*.py"))
    done = subprocess.run(
        [sys.executable, "-c", SMALLEST, str(tmp_path), *names], capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": f"{BENCH}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert re.search(r"1 x 16 +2 x 8 +16 +[\d.]+ ms +[\d.]+ +[\d.]+", done.stdout)


@pytest.fixture
def harness(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCH))
    import harness

    for name in harness.HELD_TO_AVX2:
        monkeypatch.delenv(name, raising=False)
    return harness


def pretend(monkeypatch, capability, bfloat16):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.cpu, "_is_avx512_supported", lambda: True, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bfloat16, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)


@pytest.mark.parametrize(
    ("capability", "bfloat16", "kind"),
    [
        ("AVX2", False, "avx2"), ("AVX2", True, "avx2"),
        ("AVX512", False, "avx512"), ("AVX512", True, "avx512-bf16"),
    ],
)  # fmt: skip
def test_a_kind_is_what_torch_may_use(harness, monkeypatch, capability, bfloat16, kind):
    pretend(monkeypatch, capability, bfloat16)
    assert harness.kind_of_cpu() == kind
    assert harness.result_file("speed") == BENCH / "results" / kind / "speed.json"
    assert harness.result_file("speed", on_gpu=True) == BENCH / "results" / "gpu" / "speed.json"


def test_a_held_machine_says_so(harness, monkeypatch):
    pretend(monkeypatch, "AVX2", True)
    assert "held" not in " ".join(harness.machine())
    for name, value in harness.HELD_TO_AVX2.items():
        monkeypatch.setenv(name, value)
    machine = harness.machine()
    assert machine["processor"].endswith("AVX512, held to AVX2")
    assert "MKL_ENABLE_INSTRUCTIONS=AVX2" in machine["held to AVX2 by"]


def test_a_machine_that_is_held_in_part_is_refused(harness, monkeypatch):
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx2")
    with pytest.raises(SystemExit, match="ONEDNN_MAX_CPU_ISA=AVX2"):
        harness.kind_of_cpu()


def test_a_published_result_is_what_the_page_reads(harness, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(sys, "argv", ["bench/speed.py", "--nanogpt", "/some/where"])
    table = harness.Table("Who:", ["who", "tokens/s"], [["us", "12"]])
    target = harness.Target("at least 20", "12", False)
    found = harness.Result("speed", "Speed", "How fast.", [table], [target])
    written = json.loads(harness.publish(found, tmp_path / "speed.json").read_text())
    assert written["command"] == "python bench/speed.py --nanogpt PATH"
    assert written["tables"] == [{**vars(table), "labels": 1}]
    assert written["machine"] == harness.machine()
    assert "SHORT: at least 20: 12" in capsys.readouterr().out


def runs_all(tmp_path, *arguments):
    """What `bench/all.sh` prints, with an interpreter that only notes what it is asked."""
    fake = tmp_path / "python"
    fake.write_text(
        "#!/bin/sh\n"
        f'echo "$@ [$MKL_ENABLE_INSTRUCTIONS]" >> {tmp_path}/asked\n'
        'case "$*" in *HELD_TO*) echo MKL_ENABLE_INSTRUCTIONS=AVX2 ;; *kind_of_cpu*) echo avx2 ;;\n'
        '*is_available*) echo "" ;; *memory.py*) exit 1 ;; esac\n'
    )
    fake.chmod(0o755)
    done = subprocess.run(
        ["sh", str(BENCH / "all.sh"), *arguments], cwd=tmp_path, capture_output=True, text=True,
        env={"PATH": os.environ["PATH"], "PYTHON": str(fake)},
    )  # fmt: skip
    asked = (tmp_path / "asked").read_text().splitlines() if (tmp_path / "asked").is_file() else []
    return done, [line for line in asked if line.startswith("bench/")]


def test_all_benches_say_first_what_they_take_and_what_is_missing(tmp_path):
    done, asked = runs_all(tmp_path, "--list")
    assert done.returncode == 0
    assert re.search(r"  serving +about \d+ min\n", done.stdout)
    assert re.search(r"  train_speed +skipped: no --nanogpt\n", done.stdout)
    assert re.search(r"  gpu_speed +skipped: no GPU, no --nanogpt\n", done.stdout)
    minutes = [int(found) for found in re.findall(r"  about (\d+) min", done.stdout)]
    assert f"About {sum(minutes)} minutes in all" in done.stdout
    assert asked == []


def test_all_benches_run_in_turn_and_a_failure_is_told_at_the_end(tmp_path):
    corpus = tmp_path / "a text.txt"
    corpus.write_text("x")
    names = ["--only", "serving", "--only", "best_loss", "--only", "memory"]
    done, asked = runs_all(tmp_path, "--corpus", str(corpus), "--as", "avx2", *names)
    assert done.returncode == 1
    assert done.stderr == "all.sh: these failed: memory\n"
    assert asked == [
        f"bench/best_loss.py --corpus {corpus} --budget 12m [AVX2]", "bench/memory.py [AVX2]",
        "bench/serving.py [AVX2]", "bench/render.py [AVX2]",
    ]  # fmt: skip
    assert "memory.py took 0 min" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--only", "nix"], "no bench nix"), (["--only"], "--only needs a value"),
        (["--nanogpt", "nowhere"], "nowhere is no checkout of nanoGPT"),
        (["--as", "sse"], "--as knows avx2 alone"), (["--fast"], "no option --fast"),
    ],
)  # fmt: skip
def test_all_benches_refuse_in_one_line_what_they_cannot_do(tmp_path, arguments, said):
    done, asked = runs_all(tmp_path, *arguments)
    assert (done.returncode, done.stdout, asked) == (2, "", [])
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_every_bench_is_in_the_script_that_runs_all():
    script = (BENCH / "all.sh").read_text()
    named = set(re.findall(r"^\d+ \S+ (\w+\.py)", script, re.MULTILINE))
    assert named == {
        path.name for path in BENCH.glob("*.py") if 'if __name__ == "__main__"' in path.read_text()
    } - {"render.py"}  # fmt: skip


def samples(harness, *seconds):
    return harness.Samples(seconds)


def test_the_slowest_of_the_shapes_decides(harness):
    import train_shapes

    timed = [
        {"nanoGPT": samples(harness, 3.0), "adamw": samples(harness, 1.5), "muon": muon}
        for muon in (samples(harness, 1.0), samples(harness, 4.0))
    ]
    adamw, muon = train_shapes.targets(timed, train_shapes.SHAPES[:2])
    assert (adamw.holds, adamw.measured[:10]) == (True, "2.00 times")
    assert (muon.holds, muon.measured) == (False, "0.75 times at 2 x 64, 64 x 256")
    assert [row[-2:] for row in train_shapes.table(timed, train_shapes.SHAPES[:2]).rows] == [
        ["2.00", "3.00"], ["2.00", "0.75"],
    ]  # fmt: skip


def test_the_twelve_shapes_reach_both_ends(harness):
    from train_shapes import SHAPES

    assert len({(s.layers, s.width, s.context, s.batch) for s in SHAPES}) == 12
    for values, ends in (
        ([s.layers for s in SHAPES], (2, 8)), ([s.width for s in SHAPES], (64, 512)),
        ([s.context for s in SHAPES], (64, 1024)), ([s.batch for s in SHAPES], (1, 64)),
    ):  # fmt: skip
        assert (min(values), max(values)) == ends


def test_training_is_held_to_what_its_kind_of_processor_can(harness):
    import train_speed

    seconds = {
        "minitx, muon": 1.0, "minitx, adamw": 0.9, "nanoGPT": 1.6, train_speed.COMPILED: 1.2,
        "transformers 5 GPT-2": 1.7,
    }  # fmt: skip
    found = {
        name: train_speed.Contender(0.0, samples(harness, one), 100.0 * one)
        for name, one in seconds.items()
    }
    aims = train_speed.FLOAT32
    assert [(t.measured, t.holds) for t in train_speed._targets("small", found, 1.0, aims)] == [
        ("1.78 times", True), ("1.89 times", False), ("1.60 times", True),
    ]  # fmt: skip
    load = train_speed.WORKLOADS["large"]
    peak = train_speed._model_rate(load) / 0.7
    assert [t.holds for t in train_speed._targets("large", found, peak, aims)] == [
        True, False, False,
    ]  # fmt: skip
    small = train_speed._targets("small", found, 1.0, train_speed.BFLOAT16)
    assert [t.holds for t in small] == [False, False]


@pytest.mark.parametrize(("kind", "holds"), [("avx2", True), ("avx512-bf16", False)])
def test_a_loss_is_held_to_what_its_kind_of_processor_reaches(harness, monkeypatch, kind, holds):
    import time_to_loss

    monkeypatch.setattr(time_to_loss, "kind_of_cpu", lambda: kind)
    peers = [
        time_to_loss.Whole("nanoGPT", 120.0, 1.9, 1.9, 64),
        time_to_loss.Whole(time_to_loss.COMPILED, 150.0, 1.9, 1.9, 64, 40.0),
    ]
    short = [
        time_to_loss.Whole("3s", 5.0, 2.0, 2.0, 64),
        time_to_loss.Whole("5s", 9.0, 1.8, 1.7, 128),
    ]
    long = time_to_loss.Whole("115s", 119.0, 1.48, 1.45, 128)
    result = time_to_loss._result(time_to_loss.SETTINGS["cpu"], 1.9, peers, short, long)
    assert [target.holds for target in result.targets] == [True, holds, True]
    assert result.notes == [f"{time_to_loss.COMPILED}: its first step, which compiles, took 40 s."]
    assert [row[-1] for row in result.tables[0].rows] == ["1.0", "0.8", "24.0", "13.3", "1.0"]
